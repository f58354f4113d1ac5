"""`scripts/rotate-secrets`: new secrets, while everything runs."""

import argparse
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.ops import backups, cli, shell
from deploy.ops.compose import Compose
from deploy.ops.deployment import PROGRAMS, Deployment, find
from deploy.ops.errors import NotRunning, OpsError, UsageError
from deploy.ops.postgres import PSQL, Postgres, identifier, literal
from deploy.ops.redis import Redis
from deploy.ops.secret_values import SecretValues, replace

DESCRIPTION = """\
Gives this deployment new random secrets: of the database, Redis, Flower and Django, or of those
that are named. No session ends, no token, no request and no task is lost: first all programs learn
the new secret beside the old one and restart one after the other, then the servers change over, and
the programs restart with the new one alone. Interrupted anywhere, it goes on when it is run again.

Django's former keys stay in DJANGO_SECRET_KEY_FALLBACKS, so that what they signed stays valid; a
session lasts two weeks. --forget drops them, after a key became known to others.
"""

EPILOG = """\
examples:
  scripts/rotate-secrets                   all four, after a question
  scripts/rotate-secrets database redis --yes
  scripts/rotate-secrets --forget          no new ones: who signed in before the last signs in again
"""

VARIABLES = {
    "database": "POSTGRES_PASSWORD",
    "redis": "REDIS_PASSWORD",
    "flower": "FLOWER_BASIC_AUTH",
    "django": "DJANGO_SECRET_KEY",
}
FORMER_KEYS, OTHER_PASSWORD = "DJANGO_SECRET_KEY_FALLBACKS", "POSTGRES_PASSWORD_FALLBACK"
#: Who must know the new secret before the servers do.
LEARN_FIRST = {"database": PROGRAMS, "redis": (), "flower": ("flower",), "django": PROGRAMS}


def parser() -> argparse.ArgumentParser:
    made = cli.parser("rotate-secrets", DESCRIPTION, EPILOG)
    made.add_argument(
        "secrets", nargs="*", metavar="SECRET", help=f"{', '.join(VARIABLES)} (all of them)"
    )
    made.add_argument(
        "--forget",
        action="store_true",
        help="drop Django's former keys, after the rotation of the secrets that are named, if any",
    )
    made.add_argument("--yes", action="store_true", help="don't ask")
    return made


def main() -> None:
    arguments = parser().parse_args()
    if unknown := set(arguments.secrets) - VARIABLES.keys():
        raise UsageError(f"{', '.join(unknown)}: expected some of {', '.join(VARIABLES)}")
    deployment = find(arguments.on)
    rotation = Rotation(deployment)
    names = arguments.secrets or ([] if arguments.forget else list(VARIABLES))
    with backups.locked(deployment):
        if rotation.load() or names:
            rotate(rotation, names, yes=arguments.yes)
        if arguments.forget:
            question = "Drop Django's former keys? Who signed in by one of them signs in again."
            cli.confirm(question, yes=arguments.yes)
            rotation.forget()


def rotate(rotation: "Rotation", names: list[str], *, yes: bool) -> None:
    if not rotation.is_begun:
        rotation.plan(names)
    rotation.check()
    cli.confirm(
        f"New secrets of {', '.join(rotation.state.names)} for {rotation.deployment.describe()}?",
        yes=yes,
    )
    rotation.run()


@dataclass
class State:
    """On the disk while a rotation lasts."""

    names: list[str]
    old: dict[str, str]
    new: dict[str, str]
    former_keys: str = ""
    done: list[str] = field(default_factory=list)


class Rotation:
    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.values = SecretValues(deployment)
        self.file: Path = deployment.data / "rotation.json"
        self.is_begun = False

    # --- Before ---

    def load(self) -> bool:
        """Take up one that was interrupted; whether there is one."""
        if not self.file.exists():
            return False
        self.is_begun = True
        self.state = State(**json.loads(self.file.read_text(encoding="utf-8")))
        cli.say(f"Going on with the rotation of {', '.join(self.state.names)} that was interrupted")
        return True

    def plan(self, names: Iterable[str]) -> None:
        chosen = [name for name in VARIABLES if name in names]
        old = {name: self.values.read(VARIABLES[name]) for name in chosen}
        if unset := [VARIABLES[name] for name in chosen if not old[name]]:
            raise OpsError(f"{', '.join(unset)} is not set in {self.values.settings.path}")
        new = {name: fresh(name, old[name]) for name in chosen}
        self.state = State(chosen, old, new, self.values.read(FORMER_KEYS))

    def check(self) -> None:
        deployment = self.deployment
        if isinstance(deployment, Compose) and not deployment.is_production:
            raise OpsError("a development stack has public passwords and needs no others")
        if not deployment.running("web"):
            raise NotRunning("the web does not run; a rotation wants everything up")
        if "redis" in self.state.names and deployment.redis() is None:
            raise OpsError(
                "there is no operator's way into this Redis: leave redis out, and change its "
                "password by hand (docs/backups.md)"
            )
        if "database" in self.state.names and not self.state.done:
            Postgres(deployment).query("SELECT 1")

    # --- The steps ---

    def run(self) -> None:
        steps: dict[str, Callable[[], None]] = {
            "learn": self.learn,
            "restart to learn": lambda: self.restart(self._first_round()),
            "switch": self.switch,
            "restart": lambda: self.restart(PROGRAMS),
            "finish": self.finish,
        }
        for name, step in steps.items():
            if name not in self.state.done:
                self._save()
                step()
                self.state.done.append(name)
        self.file.unlink(missing_ok=True)
        cli.say(f"New: {', '.join(VARIABLES[name] for name in self.state.names)}")

    def _save(self) -> None:
        replace(self.file, json.dumps(asdict(self.state), indent=2))

    def learn(self) -> None:
        """Whoever starts from now on knows the new ones beside the old."""
        old, new, values = self.state.old, self.state.new, {}
        if "django" in new:
            values[FORMER_KEYS] = joined(new["django"], self.state.former_keys)
        if "database" in new:
            values[OTHER_PASSWORD] = new["database"]
        if "flower" in new:
            values[VARIABLES["flower"]] = joined(old["flower"], new["flower"])
        if "redis" in new:
            self._redis.set_passwords(self._redis_user, [old["redis"], new["redis"]])
        self.values.write(**values)

    def switch(self) -> None:
        old, new = self.state.old, self.state.new
        if "database" in new:
            self._change_database_password(old["database"], new["database"])
        values = {VARIABLES[name]: value for name, value in new.items()}
        if "django" in new:
            values[FORMER_KEYS] = joined(old["django"], self.state.former_keys)
        if "database" in new:
            values[OTHER_PASSWORD] = ""
        self.values.write(**values)

    def finish(self) -> None:
        if "redis" in self.state.new:
            self._redis.set_passwords(self._redis_user, [self.state.new["redis"]])

    def forget(self) -> None:
        """The web alone verifies what the keys signed."""
        self.values.write(**{FORMER_KEYS: ""})
        self.restart(["web"])

    def restart(self, programs: Iterable[str]) -> None:
        if names := list(programs):
            with cli.step(f"Restarting {', '.join(names)}"):
                self.deployment.restart_each(names)

    def _first_round(self) -> list[str]:
        wanted = {program for name in self.state.names for program in LEARN_FIRST[name]}
        return [program for program in PROGRAMS if program in wanted]

    def _change_database_password(self, old: str, new: str) -> None:
        """By its verifier: the password itself stands in no log of the server's."""
        verifier = scram_verifier(new)
        role = identifier(self.values.settings.read().get("POSTGRES_USER") or "marketplace")
        sql = f"ALTER ROLE {role} PASSWORD {literal(verifier)}"
        postgres = Postgres(self.deployment)
        if postgres.is_admin:
            postgres.query(sql)
        else:
            self._as_the_role(sql, old, new)
        self.deployment.keep_database_password(verifier)

    def _as_the_role(self, sql: str, old: str, new: str) -> None:
        """By the old password, or by the new one where an interrupted run came as far as that."""
        line, env = self.deployment.postgres(*PSQL), self.deployment.postgres_environment() or {}
        done = shell.try_run(line, env=env | {"PGPASSWORD": new}, input=sql)
        if done.returncode:
            shell.run(line, env=env | {"PGPASSWORD": old}, input=sql)

    @property
    def _redis(self) -> Redis:
        if redis := self.deployment.redis():
            return redis
        raise OpsError("there is no operator's way into this Redis any more")

    @property
    def _redis_user(self) -> str:
        return self.values.settings.read().get("REDIS_USER") or "marketplace"


def fresh(name: str, old: str) -> str:
    """A new secret in the place of the old one; each login of Flower keeps its user."""
    if name != "flower":
        return secrets.token_urlsafe(48)
    users = [login.strip().partition(":")[0] for login in old.split(",")]
    return ",".join(f"{user}:{secrets.token_urlsafe(48)}" for user in users)


def joined(*lists: str) -> str:
    return ",".join(filter(None, lists))


def scram_verifier(password: str, salt: bytes = b"", iterations: int = 4096) -> str:
    """What PostgreSQL keeps of a password (RFC 5803)."""
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_, stored, server = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${iterations}:{salt_}${stored}:{server}"


if __name__ == "__main__":
    cli.run(main)
