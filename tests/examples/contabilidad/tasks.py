from celery import shared_task

from contabilidad.items import procesar_item
from task_manager.utils import finish_task, start_task_tracking, update_task_progress


@shared_task(bind=True)
def procesar_contabilidad(self, datos, user_id):
    from django.contrib.auth.models import User

    user = User.objects.get(id=user_id)

    # Iniciar tracking
    task_execution = start_task_tracking(
        task_id=self.request.id,
        task_name='contabilidad.procesar',
        module='contabilidad',
        user=user,
        description='Procesando datos de contabilidad',
        parameters={'datos_count': len(datos)}
    )

    try:
        total_items = len(datos)

        for i, item in enumerate(datos):
            # Procesar item
            procesar_item(item)

            # Actualizar progreso
            progress = int((i + 1) / total_items * 100)
            update_task_progress(
                task_execution.id,
                progress,
                f"Procesando {i+1}/{total_items}"
            )

        # Finalizar con éxito
        result = {'procesados': total_items, 'errores': 0}
        finish_task(task_execution.id, success=True, result=result)

        return result

    except Exception as e:
        # Finalizar con error
        finish_task(task_execution.id, success=False, error_message=str(e))
        raise
