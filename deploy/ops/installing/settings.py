"""The environment file of a host, as it is or will be."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from deploy.ops import cli, shell
from deploy.ops.deployment import PROJECT
from deploy.ops.errors import OpsError
from deploy.ops.host import ETC, USER
from deploy.ops.installing.steps import File
from deploy.ops.settings_file import SettingsFile

PATH = ETC / "env"
#: Without these of its own nothing starts.
SECRETS = ("DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH")
LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Planned(SettingsFile):
    """One that is not written yet."""

    text: str = field(default="", repr=False)

    def _text(self) -> str:
        return self.text


@dataclass(frozen=True)
class Server:
    """PostgreSQL or Redis, as the environment file says where it is and who enters."""

    #: POSTGRES or REDIS, as its variables begin.
    prefix: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    #: PostgreSQL's; the number of Redis'.
    database: str = ""

    @property
    def is_local(self) -> bool:
        return self.host in LOCAL

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port} ({self.prefix}_HOST, {self.prefix}_PORT in {PATH})"


@dataclass(frozen=True)
class Settings:
    file: SettingsFile

    @classmethod
    def plan(cls, given: Path | None, *, may_be_fresh: bool) -> "Settings":
        """Those of the file that is there, else the given one's, else of fresh secrets."""
        text = SettingsFile(given)._text() if given else ""
        if PATH.exists():
            settings = cls(SettingsFile(PATH))
            if given and text != settings.file._text():
                cli.warn(f"{PATH} is there and stays; what {given} says otherwise does not count")
            return settings
        if given:
            # What stands beside the given file is found from the new place, too.
            return cls(Planned(PATH, text))
        if not may_be_fresh:
            raise OpsError(
                f"there is no {PATH}, and a worker host shares the secrets of the first host: copy "
                f"{PATH} from there, set POSTGRES_HOST and REDIS_HOST to that host, and name the "
                "copy by --env FILE"
            )
        text = shell.run([str(PROJECT / "scripts" / "init-env"), "--print"])
        return cls(Planned(PATH, text))

    @cached_property
    def values(self) -> dict[str, str]:
        return self.file.read()

    def get(self, name: str, default: str) -> str:
        return self.values.get(name) or default

    def step(self) -> File:
        """Written with its values as they are; readable for the programs."""
        return File(PATH, self.file._text(), 0o640, "root", USER)

    def check(self) -> None:
        """Each secret is there and nobody's but this host's."""
        missing = [name for name in SECRETS if not self._secret(name)]
        if missing:
            raise OpsError(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set in {PATH}: "
                "scripts/init-env --print shows fresh ones"
            )
        if self.get("DJANGO_DEBUG", "0").lower() in ("1", "true", "yes", "on"):
            raise OpsError(f"DJANGO_DEBUG is on in {PATH}: that is for development alone")
        if self.values.get("DJANGO_STATIC_ROOT"):
            raise OpsError(
                f"DJANGO_STATIC_ROOT is set in {PATH}: each release brings its own files"
            )

    def _secret(self, name: str) -> str:
        try:
            return self.file.secret(name)
        except OSError as error:
            raise OpsError(f"{name}_FILE in {PATH}: {error}") from error

    def _port(self, name: str, default: int) -> int:
        text = self.get(name, str(default))
        if not text.isdigit():
            raise OpsError(f"{name}={text} in {PATH}: expected a port's number")
        return int(text)

    @property
    def postgres(self) -> Server:
        return Server(
            "POSTGRES",
            self.get("POSTGRES_HOST", "127.0.0.1"),
            self._port("POSTGRES_PORT", 5432),
            self.get("POSTGRES_USER", "marketplace"),
            self._secret("POSTGRES_PASSWORD"),
            self.get("POSTGRES_DB", "marketplace"),
        )

    @property
    def redis(self) -> Server:
        return Server(
            "REDIS",
            self.get("REDIS_HOST", "127.0.0.1"),
            self._port("REDIS_PORT", 6379),
            self.get("REDIS_USER", "marketplace"),
            self._secret("REDIS_PASSWORD"),
            self.get("REDIS_DATABASE", "0"),
        )

    @property
    def web(self) -> tuple[str, int]:
        """Address and port that the web listens on."""
        bind = self.get("WEB_BIND", "127.0.0.1:8000")
        address, _, port = bind.rpartition(":")
        if not address or not port.isdigit():
            raise OpsError(f"WEB_BIND={bind} in {PATH}: expected an address and a port")
        return address.strip("[]"), int(port)

    @property
    def flower(self) -> tuple[str, int]:
        return self.get("FLOWER_ADDRESS", "127.0.0.1"), self._port("FLOWER_PORT", 5555)
