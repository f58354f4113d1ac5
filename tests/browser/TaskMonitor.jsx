// En tu componente React
import { useState, useEffect } from 'react';

function TaskMonitor({ userId }) {
    const [tasks, setTasks] = useState([]);
    const [workers, setWorkers] = useState([]);
    
    useEffect(() => {
        // Polling cada 5 segundos para tareas del usuario
        const interval = setInterval(() => {
            fetch('/api/tasks/executions/?user=' + userId)
                .then(res => res.json())
                .then(data => setTasks(data.results));
                
            fetch('/api/tasks/workers/')
                .then(res => res.json())
                .then(data => setWorkers(data));
        }, 5000);
        
        return () => clearInterval(interval);
    }, [userId]);
    
    const cancelTask = (taskId) => {
        fetch(`/api/tasks/cancel/${taskId}/`, { method: 'POST' })
            .then(() => {
                // Actualizar lista
                setTasks(tasks.filter(t => t.task_id !== taskId));
            });
    };
    
    return (
        <div>
            <h3>Mis Tareas</h3>
            {tasks.map(task => (
                <div key={task.id} className="task-item">
                    <span>{task.task_name}</span>
                    <span className={`status-${task.status.toLowerCase()}`}>
                        {task.status}
                    </span>
                    {task.progress > 0 && (
                        <div className="progress-bar">
                            <div 
                                className="progress-fill" 
                                style={{width: `${task.progress}%`}}
                            />
                        </div>
                    )}
                    {task.status === 'STARTED' && (
                        <button onClick={() => cancelTask(task.task_id)}>
                            Cancelar
                        </button>
                    )}
                </div>
            ))}
            
            <h3>Workers Activos: {workers.length}</h3>
        </div>
    );
}
