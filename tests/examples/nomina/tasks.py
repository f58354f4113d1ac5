from celery import shared_task

from task_manager.utils import track_task


@shared_task
@track_task('nomina.consolidar', 'nomina', 'Consolidar nómina del período')
def consolidar_nomina(periodo_id, user_id):
    # Tu lógica existente
    return {'success': True, 'periodo_id': periodo_id}


@shared_task
@track_task('nomina.generar_reporte', 'nomina', 'Generar reporte de nómina')
def generar_reporte_nomina(parametros, user_id):
    # Tu lógica existente
    return {'reporte_url': '/path/to/report.pdf'}
