"""Several webs beside one another, of which the proxy speaks to one: the socket `current`.

Each web listens on a Unix socket of its own in one folder; `current` is a link to one of them.
To turn it is one step, for which the proxy needs no reload and closes nobody's connection: what
came before goes to the old web, what comes after to the new one, and nothing is asked twice.

`python -m deploy.web_socket` makes this container's web the current one.
"""

import os
import socket
from pathlib import Path

CURRENT = "current"


def own(folder: Path) -> Path:
    """Where this container's web listens."""
    return folder / f"{socket.gethostname()}.sock"


def is_served(folder: Path) -> bool:
    """Whether a web listens behind `current`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(folder / CURRENT))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


def take(folder: Path) -> None:
    """Turn `current` to this container's web."""
    new = folder / f".{own(folder).name}"
    new.unlink(missing_ok=True)
    new.symlink_to(own(folder).name)
    new.replace(folder / CURRENT)


if __name__ == "__main__":
    take(Path(os.environ["WEB_SOCKET_DIR"]))
