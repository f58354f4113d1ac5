from rest_framework.decorators import api_view
from rest_framework.response import Response

from task_manager.utils import get_module_stats, get_user_tasks


@api_view(['GET'])
def mis_tareas_nomina(request):
    # Obtener tareas del usuario para el módulo de nómina
    user_tasks = get_user_tasks(
        user=request.user,
        module='nomina',
        limit=20
    )
    return Response(user_tasks)


@api_view(['GET'])
def estadisticas_modulo(request, modulo):
    # Obtener estadísticas del módulo
    stats = get_module_stats(modulo, days=30)
    return Response(stats)
