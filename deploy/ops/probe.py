"""What the application sees from where it runs: a program for its Python, read from standard input.

It needs no settings, so that it works when they are wrong. Prints JSON; no secret is in it.
"""

import ast
import hashlib
import importlib.metadata
import json
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

#: Seconds for each connection.
TIMEOUT = 4
#: Bytes below which a password is called short.
SHORT = 12
SECRETS = (
    "DJANGO_SECRET_KEY",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "FLOWER_BASIC_AUTH",
    "METRICS_TOKEN",
    "TASK_WEBHOOK_SECRET",
)


def examine(host: str, port: int, login: Callable[[], float]) -> dict[str, Any]:
    """What is wrong with a server, by name; `login` gives its clock, in epoch seconds."""
    facts: dict[str, Any] = {"host": host, "port": port, "problem": None, "detail": ""}
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
        before = time.time()
        theirs = login()
        after = time.time()
        facts["seconds"] = after - before
        facts["ahead"] = theirs - (before + after) / 2
    except Exception as error:  # each is an answer
        facts["problem"] = problem(error)
        facts["detail"] = " ".join(str(error).split())[-300:]
    return facts


def problem(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, socket.gaierror):
        return "resolution"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
        return "timeout"
    if "timeout" in text or "timed out" in text:
        return "timeout"
    if "does not exist" in text and "database" in text:
        return "database"
    marks = ("password", "authentica", "wrongpass", "noauth", "role ", "pg_hba")
    if any(mark in text for mark in marks):
        return "login"
    return "other"


def postgres(env: Any) -> dict[str, Any]:
    host, port = env.text("POSTGRES_HOST", "127.0.0.1"), env.integer("POSTGRES_PORT", 5432)

    def login() -> float:
        import psycopg2

        with (
            closing(
                psycopg2.connect(
                    host=host,
                    port=port,
                    dbname=env.text("POSTGRES_DB", "marketplace"),
                    user=env.text("POSTGRES_USER", "marketplace"),
                    password=env.text("POSTGRES_PASSWORD"),
                    connect_timeout=TIMEOUT,
                    options=f"-c statement_timeout={TIMEOUT * 1000}",
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT extract(epoch FROM clock_timestamp())")
            (epoch,) = cursor.fetchone() or (0.0,)
            return float(epoch)

    return examine(host, port, login)


def redis(env: Any) -> dict[str, Any]:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    password = env.text("REDIS_PASSWORD")
    options: dict[str, Any] = {
        "username": env.text("REDIS_USER", "marketplace") if password else None,
        "password": password or None,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    host, port = env.text("REDIS_HOST", "127.0.0.1"), env.integer("REDIS_PORT", 6379)
    try:
        host, port = master(env, options) or (host, port)
    except Exception as error:  # no sentinel knows
        detail = " ".join(str(error).split())[-300:]
        return {"host": "sentinel", "port": 0, "problem": "sentinel", "detail": detail}

    def login() -> float:
        with redis.Redis(
            host=host, port=port, db=env.integer("REDIS_DATABASE", 0), **options
        ) as client:
            seconds, microseconds = client.time()
            return float(seconds) + float(microseconds) / 1e6

    return examine(host, port, login)


def master(env: Any, options: dict[str, Any]) -> tuple[str, int] | None:
    """Where the sentinels say that it is; None where there are none."""
    addresses = [part.rpartition(":") for part in env.words("REDIS_SENTINELS", [])]
    if not addresses:
        return None
    from redis.sentinel import Sentinel

    sentinels = [(host, int(port)) for host, _, port in addresses]
    asked = Sentinel(sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    name = env.text("REDIS_SENTINEL_MASTER", "marketplace")
    host, port = asked.discover_master(name)  # type: ignore[no-untyped-call]
    return str(host), int(port)


def secrets(env: Any) -> dict[str, str]:
    """Of each: unset, public, short or good."""
    public = public_secrets()
    found = {}
    for name in SECRETS:
        value = env.text(name)
        if name == "FLOWER_BASIC_AUTH":
            value = value.partition(",")[0].partition(":")[2]
        least = 32 if name == "DJANGO_SECRET_KEY" else SHORT
        is_short = len(value.encode()) < least or len(set(value)) < 5
        found[name] = (
            "unset"
            if not value
            else "public"
            if value in public
            else "short"
            if is_short
            else "good"
        )
    return found


def public_secrets() -> set[str]:
    """Those of development, which marketplace/settings.py names."""
    found = set()
    for node in ast.parse(Path("marketplace/settings.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
            "DEVELOPMENT_KEY",
            "DEVELOPMENT_SECRETS",
        ):
            constants = (part for part in ast.walk(node) if isinstance(part, ast.Constant))
            found |= {constant.value for constant in constants if isinstance(constant.value, str)}
    return found


def code(folder: Path = Path()) -> dict[str, str]:
    """The SHA-256 of each module of the applications."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for package in sorted(path.parent for path in folder.glob("*/__init__.py"))
        if package.name not in ("benchmarks", "deploy", "tests")
        for path in sorted(package.rglob("*.py"))
        if "tests" not in path.relative_to(folder).parts
    }


def packages() -> dict[str, str]:
    return {
        distribution.name.lower().replace("_", "-").replace(".", "-"): distribution.version
        for distribution in importlib.metadata.distributions()
    }


def main() -> None:
    from marketplace.env import Env

    env = Env()
    seen = {
        "postgres": postgres(env),
        "redis": redis(env),
        "debug": env.boolean("DJANGO_DEBUG", False),
        "secrets": secrets(env),
        "code": code(),
        "packages": packages(),
        "at": time.time(),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
