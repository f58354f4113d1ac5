"""The environment of the embedded system: the folder's `env` file, and what follows from it.

The file holds ports and secrets, made on the first run, and any variable of `.env.example` that
somebody adds. It wins over the shell's variables, of which the programs see a few harmless ones
alone: a stray CELERY_BROKER_URL or POSTGRES_HOST reaches nothing. The ports are the exception: one
given in the shell is kept in the file.
"""

import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.errors import QuickstartError
from deploy.embedded.folder import PROJECT, Folder

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR")
ACCOUNT = "123456789012"  # the only one that moto has

PORTS = {
    "HOST_PORT_WEB": 8000,
    "HOST_PORT_FLOWER": 5555,
    "EMBEDDED_POSTGRES_PORT": 15432,
    "EMBEDDED_REDIS_PORT": 16379,
    "EMBEDDED_AWS_PORT": 14566,
    "EMBEDDED_SANDBOX_PORT": 18090,
}


def _secret() -> str:
    return secrets.token_hex(16)


def _password() -> str:
    return secrets.token_urlsafe(9)


SECRETS: dict[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": _secret,
    "REDIS_PASSWORD": _secret,
    # Of `operator`, who may do everything in PostgreSQL and Redis: backups and their like.
    "OPERATOR_PASSWORD": _secret,
    "DJANGO_SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "ADMIN_PASSWORD": _password,
    "DEMO_PASSWORD": _password,
    # Of the simulator, which takes whatever it is given.
    "PANACCESS_PASSWORD": _secret,
    "PANACCESS_API_TOKEN": _secret,
    "FLOWER_BASIC_AUTH": lambda: f"admin:{_password()}",
}

HEADER = """\
# Flash Promos, the embedded way. `scripts/quickstart` adds what is missing and keeps the rest.
# Any variable of .env.example may be added; the next `scripts/quickstart` applies it.
"""

_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Environment:
    folder: Folder
    text: str
    values: dict[str, str]

    @classmethod
    def load(cls, folder: Folder, shell: dict[str, str] | None = None) -> "Environment":
        """Read the file and complete it in memory; `save` writes it."""
        shell = dict(os.environ) if shell is None else shell
        file = folder.env_file
        text = file.read_text(encoding="utf-8") if file.exists() else HEADER
        values = parse(text, file)
        for name, default in PORTS.items():
            text = _put(text, values, name, shell.get(name) or values.get(name) or str(default))
        for name, make in SECRETS.items():
            text = _put(text, values, name, values.get(name) or make())
        return cls(folder, text, values)

    def is_saved(self) -> bool:
        file = self.folder.env_file
        return file.exists() and file.read_text(encoding="utf-8") == self.text

    def save(self) -> None:
        """Write the file, whole or not at all; an unchanged one keeps its time."""
        if self.is_saved():
            return
        file = self.folder.env_file
        unfinished = file.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(self.text, encoding="utf-8")
        unfinished.rename(file)

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = {}
        for name in PORTS:
            text = self.values[name]
            if not text.isdecimal() or not 0 < int(text) < 65536:
                raise QuickstartError(f"{name}={text} is no port: give a number from 1 to 65535")
            other = next((known for known in ports if ports[known] == int(text)), None)
            if other:
                raise QuickstartError(f"{name} and {other} are both {text}: change one of them")
            ports[name] = int(text)
        return ports

    def url(self, path: str = "/", *, port: str = "HOST_PORT_WEB") -> str:
        return f"http://127.0.0.1:{self.values[port]}{path}"

    def of_programs(self) -> dict[str, str]:
        """Everything that the programs and manage.py see."""
        venv = Path(sys.prefix)
        shell = {name: os.environ[name] for name in INHERITED if name in os.environ}
        shell["PATH"] = f"{venv / 'bin'}{os.pathsep}{shell.get('PATH', os.defpath)}"
        region = "us-east-1"
        derived = {
            "EMBEDDED_DIR": str(self.folder.path),
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "DJANGO_DEBUG": "0",
            "DJANGO_HTTPS": "0",
            "DJANGO_STATIC_ROOT": str(self.folder.static),
            "DJANGO_MEDIA_ROOT": str(self.folder.media),
            # What starts reads it anew, and need not wait for supervisord's next start.
            "ENV_FILE": str(self.folder.env_file),
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": self.values["EMBEDDED_POSTGRES_PORT"],
            "POSTGRES_USER": "marketplace",
            "POSTGRES_DB": "marketplace",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": self.values["EMBEDDED_REDIS_PORT"],
            "REDIS_USER": "marketplace",
            "AWS_ENDPOINT_URL": self.url("", port="EMBEDDED_AWS_PORT"),
            "AWS_DEFAULT_REGION": region,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            # The caller's own profiles must not lead elsewhere.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "SNS_TOPIC_ARN": f"arn:aws:sns:{region}:{ACCOUNT}:promo-notifications",
            "SQS_WAIT_SECONDS": "2",
            "SQS_RECEIVERS": "2",
            # Short periods, so that nobody waits a minute to see a promo open.
            "CHECK_ACTIVE_PROMOS_SECONDS": "5",
            "PROCESS_NOTIFICATION_QUEUE_SECONDS": "5",
            # moto forgets its queues when it stops.
            "NOTIFICATION_REPUBLISH_SECONDS": "20",
            "SANDBOX_BIND": f"127.0.0.1:{self.values['EMBEDDED_SANDBOX_PORT']}",
            "PANACCESS_URL": self.url("/panaccess/", port="EMBEDDED_SANDBOX_PORT"),
            "PANACCESS_USERNAME": "sandbox",
            "SYNC_AND_MERGE_TELEMETRY_SECONDS": "15",
            "WEB_BIND": f"127.0.0.1:{self.values['HOST_PORT_WEB']}",
            "WEB_WORKERS": "1",
            "CELERY_WORKER_CONCURRENCY": "2",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_PORT": self.values["HOST_PORT_FLOWER"],
            "FLOWER_MAX_TASKS": "10000",
            "FLOWER_URL": self.url("", port="HOST_PORT_FLOWER"),
            "PROJECT_DIR": str(PROJECT),
            "VENV": str(venv),
            "LOG_DIR": str(self.folder.logs),
            # Servers first, then the migration, then the programs: the quickstart keeps the order.
            "PROGRAMS_AUTOSTART": "false",
            "PROGRAMS_START_RETRIES": "3",
            "WORKER_STOP_SECONDS": "20",
            "WORKER_QUEUES": "high_priority,default,low_priority",
            "WATCHDOG_SECONDS": "120",
            "WATCHDOG_SOCKET": "",
            "PYTHONFAULTHANDLER": "1",
        }
        if os.geteuid() == 0:
            # Celery's advice is for servers; messages are JSON alone here.
            derived["PYTHONWARNINGS"] = "ignore:You're running the worker with superuser privileges"
        return shell | derived | self.values


def parse(text: str, file: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise QuickstartError(f"{file}, line {number}: expected NAME=value")
        values[match[1]] = match[2]
    return values


def _put(text: str, values: dict[str, str], name: str, value: str) -> str:
    """The text with `name` set to this value, its own line kept where it stands."""
    if values.get(name) == value:
        return text
    known = name in values
    values[name] = value
    if known:
        return re.sub(rf"(?m)^\s*{name}=.*$", lambda match: f"{name}={value}", text)
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{name}={value}\n"
