from task_manager.utils import create_task_template

# Crear plantillas para tareas comunes
create_task_template(
    name='consolidacion_nomina',
    task_name='nomina.consolidar',
    module='nomina',
    description='Consolidación mensual de nómina',
    default_parameters={'notificar': True},
    estimated_duration=300,  # 5 minutos
    notification_settings={
        'notify_on_start': True,
        'notify_on_complete': True,
        'notify_on_error': True
    }
)

create_task_template(
    name='backup_contabilidad',
    task_name='contabilidad.backup',
    module='contabilidad',
    description='Backup de datos contables',
    estimated_duration=600,  # 10 minutos
)
