
// What the component's page adds: the component on it, for the user who is signed in.
import { createRoot } from 'react-dom/client';

const root = document.getElementById('root');
createRoot(root).render(<TaskMonitor userId={root.dataset.user} />);
