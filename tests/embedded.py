"""A real deployment of the embedded way: servers, ports and a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.embedded.api import Api
from deploy.embedded.environment import PORTS, parse
from deploy.embedded.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
Done = subprocess.CompletedProcess[str]


@dataclass
class Quickstart:
    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})
    first: Done | None = None

    def shell(self, **variables: str) -> dict[str, str]:
        """The environment of a shell whose commands mean this deployment."""
        ports = {name: str(port) for name, port in self.ports.items()}
        given = {"VENV": sys.prefix, "EMBEDDED_DIR": str(self.folder)} | ports | variables
        return {name: value for name, value in os.environ.items() if name != "PYTHON"} | given

    def run(self, *arguments: str, text: str = "", **variables: str) -> Done:
        return self.script("quickstart", *arguments, text=text, **variables)

    def script(self, name: str, *arguments: str, text: str = "", **variables: str) -> Done:
        """Run `scripts/NAME` in such a shell."""
        return subprocess.run(
            [ROOT / "scripts" / name, *arguments],
            env=self.shell(**variables),
            input=text,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def ops(self, command: str, *arguments: str, text: str = "", **variables: str) -> Done:
        """Run a command of the runbook on this deployment."""
        return self.script(
            command, *arguments, text=text, **{"FLASH_PROMOS_ON": "embedded"} | variables
        )

    @property
    def values(self) -> dict[str, str]:
        file = self.folder / "env"
        return parse(file.read_text(), file)

    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.ports['HOST_PORT_WEB']}")

    def reservations(self) -> int:
        api = self.api()
        assert api.login("demo-shopper", self.values["DEMO_PASSWORD"]) == 200
        return int(api.call("GET", "/api/reservations/")[1]["count"])


@contextmanager
def running_embedded(folder: Path, env: str = "", **variables: str) -> Iterator[Quickstart]:
    """It runs, a promo is open and its shoppers are told; stopped at the end.

    `env` is what its environment file holds from the start: NAME=value, one a line.
    """
    quickstart = Quickstart(folder)
    if env:
        folder.mkdir(parents=True)
        (folder / "env").write_text(env)
    try:
        quickstart.first = quickstart.run(**variables)
        assert quickstart.first.returncode == 0, quickstart.first.stderr
        yield quickstart
    finally:
        quickstart.run("stop")
