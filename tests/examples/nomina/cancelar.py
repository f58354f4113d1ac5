from task_manager.utils import cancel_user_tasks


def cancelar(request):
    # Cancelar todas las tareas pendientes de un usuario en nómina
    result = cancel_user_tasks(
        user=request.user,
        module='nomina'
    )
    print(f"Canceladas: {result['cancelled']}, Fallidas: {result['failed']}")
    return result


def cancelar_consolidar(request):
    # Cancelar tareas específicas
    result = cancel_user_tasks(
        user=request.user,
        task_name='nomina.consolidar'
    )
    return result
