"""The usual causes of trouble, one function each, for `scripts/doctor`.

A check gives a finding for each thing that it looked at. What it cannot know is an OpsError, whose
reason is shown; none of them waits for long.
"""

import difflib
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.embedded import ports
from deploy.embedded.environment import PORTS, SECRETS
from deploy.ops import cli, shell
from deploy.ops.compose import LABEL, Compose
from deploy.ops.deployment import PROJECT, Service, State
from deploy.ops.embedded import Embedded
from deploy.ops.errors import OpsError
from deploy.ops.examined import Examined, Finding, error, ok, warning
from deploy.ops.host import children, started_at
from deploy.ops.probe import code

Findings = Iterator[Finding]

#: Bytes and part of a disk that should be free; below a fifth of either it is an error.
FREE_BYTES, FREE_PART = 2 * 10**9, 0.1
#: Seconds that clocks may differ; above it leases of logins and the history's times are wrong.
SKEW = 2.0
#: The last LocalStack that starts without an account.
LOCALSTACK_FREE = (4, 14, 0)


# --- What runs -----------------------------------------------------------------------------------
def check_services(examined: Examined) -> Findings:
    down = [one for one in examined.services if one.state in (State.STOPPED, State.FAILED)]
    if len(down) == len(examined.services):
        yield error("nothing runs", examined.apply_settings())
        return
    for one in down:
        who = one.instance or one.name
        yield error(f"{who} is {one.state}", f"{examined.start(one.name)}; scripts/logs {one.name}")
    for one in examined.services:
        if one.state == State.UNHEALTHY:
            yield error(f"{one.instance} runs but is not healthy", f"scripts/logs {one.name}")
        elif one.state == State.STARTING:
            yield warning(f"{one.instance} is starting", f"scripts/logs {one.name}")
    if not down:
        yield ok(f"{len(examined.services)} processes run")


def check_ports(examined: Examined) -> Findings:
    """Of what does not run: who has its port."""
    for name, variable, port in _ports(examined):
        if examined.runs(name) or not _is_taken(port):
            continue
        who = _container_at(port) or ports.holder(port)
        if who == "systemd, process 1":  # its own socket, which starts the service
            continue
        by = f" by {who}" if who else ""
        helps = f"stop it, or set {variable} to another port in {_file(examined)}"
        yield error(f"port {port}, which {name} needs, is taken{by}", helps)


def _ports(examined: Examined) -> Iterator[tuple[str, str, int]]:
    """Each service's name, the variable of its port on this host, and the port."""
    deployment, settings = examined.deployment, examined.settings
    if isinstance(deployment, Compose):
        for name, service in deployment.config["services"].items():
            for published in service.get("ports", ()):
                variable = "HOST_PORT_WEB" if name == "proxy" else f"HOST_PORT_{name.upper()}"
                yield name, variable, int(published["published"])
        return
    if isinstance(deployment, Embedded):
        for variable, default in PORTS.items():
            name = variable.removeprefix("HOST_PORT_").removeprefix("EMBEDDED_")
            name = name.removesuffix("_PORT").lower()
            yield name, variable, int(settings.get(variable) or default)
        return
    bind = settings.get("WEB_BIND") or "127.0.0.1:8000"
    if bind.rpartition(":")[2].isdigit():
        yield "web", "WEB_BIND", int(bind.rpartition(":")[2])
    yield "flower", "FLOWER_PORT", int(settings.get("FLOWER_PORT") or 5555)


def _is_taken(port: int) -> bool:
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


def _container_at(port: int) -> str:
    if not shutil.which("docker"):
        return ""
    command = ["docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}"]
    name = shell.try_run(command, timeout=10).stdout.strip()
    return f"the container {name}" if name else ""


# --- Settings ------------------------------------------------------------------------------------
def check_application(examined: Examined) -> Findings:
    """Its code and settings load."""
    try:
        examined.probe  # noqa: B018
    except OpsError as failure:
        helps = f"{examined.compose} build" if examined.deployment.way == "compose" else ""
        yield error(f"its Python does not run: {failure}", helps)
        return
    try:
        examined.state  # noqa: B018
    except OpsError as failure:
        yield error(f"manage.py does not run: {failure}", f"mend it in {_file(examined)}")
    else:
        yield ok("the settings are complete, manage.py runs")


def check_variables(examined: Examined) -> Findings:
    """Names in the environment file that nobody reads."""
    known = _known_variables()
    own = re.compile(r"(CELERY|FLOWER|COMPOSE|DOCKER|AWS|OTEL|EMBEDDED|GUNICORN)_")
    unknown = 0
    for name in examined.settings:
        if name in known or name.removesuffix("_FILE") in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near or not own.match(name):
            unknown += 1
            helps = f"did you mean {near[0]}?" if near else "see .env.example for the names"
            yield warning(f"{name} in {_file(examined)}: nobody reads it", helps)
    if not unknown:
        yield ok(f"{len(examined.settings)} variables, all known")


def _known_variables() -> set[str]:
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    listed = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE))
    return listed | PORTS.keys() | SECRETS.keys() | {"FLASH_PROMOS_ON"}


def check_secrets(examined: Examined) -> Findings:
    helps = f"scripts/rotate-secrets, or set it in {_file(examined)}"
    if examined.probe["debug"]:
        yield ok("development (DJANGO_DEBUG=1): public secrets are in order")
        return
    bad = 0
    for name, quality in examined.probe["secrets"].items():
        is_optional = name in ("METRICS_TOKEN", "TASK_WEBHOOK_SECRET", "FLOWER_BASIC_AUTH")
        if quality == "good" or (quality == "unset" and is_optional):
            continue
        bad += 1
        said = {"unset": "is not set", "public": "is a public default", "short": "is easy to guess"}
        finding = warning if quality == "short" else error
        yield finding(f"{name} {said[quality]}", helps)
    if not bad:
        yield ok("each of its own, none short")


def check_restart(examined: Examined) -> Findings:
    """Settings that changed since the programs started."""
    outdated = sorted(_outdated(examined))
    if outdated:
        seen = f"{', '.join(outdated)} started before the settings changed"
        yield warning(seen, examined.apply_settings())
    else:
        yield ok("all that runs started with these settings")


def _outdated(examined: Examined) -> Iterator[str]:
    deployment = examined.deployment
    if isinstance(deployment, Compose):
        for item in deployment.containers():
            if item["State"]["Running"] and _has_other_variables(item, deployment):
                yield item["Name"].lstrip("/")
        return
    file = deployment.settings_file.path
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC) if file.exists() else None
    for one in examined.services:
        read = _read_settings_at(one)
        if changed and read and read < changed.replace(microsecond=0):
            yield one.instance


def _read_settings_at(service: Service) -> datetime | None:
    """A web that was told to reload them stays, and has new processes."""
    pids = children(service.pid or 0) if service.name == "web" else ()
    return min(filter(None, map(started_at, pids)), default=service.started_at)


def _has_other_variables(item: dict[str, Any], deployment: Compose) -> bool:
    service = deployment.config["services"].get(item["Config"]["Labels"][f"{LABEL}.service"], {})
    has = dict(variable.split("=", 1) for variable in item["Config"]["Env"] if "=" in variable)
    # Compose shows a $ doubled, as its files have it.
    wanted = {
        name: str(value).replace("$$", "$")
        for name, value in service.get("environment", {}).items()
        if value is not None
    }
    return any(has.get(name) != value for name, value in wanted.items())


# --- Servers -------------------------------------------------------------------------------------
def check_postgres(examined: Examined) -> Findings:
    yield _server(examined, "postgres", "PostgreSQL", "POSTGRES")


def check_redis(examined: Examined) -> Findings:
    yield _server(examined, "redis", "Redis", "REDIS")


def _server(examined: Examined, name: str, title: str, prefix: str) -> Finding:
    facts = examined.probe[name]
    where = f"{title} at {facts['host']}:{facts['port']}"
    if facts["problem"] is None:
        return ok(f"{where} answers ({1000 * facts['seconds']:.0f} ms)")
    file = _file(examined)
    is_ours = bool(examined.instances(name)) or facts["host"] in ("127.0.0.1", "localhost")
    start = examined.start(name) if is_ours else f"start it there, or set {prefix}_HOST in {file}"
    seen, helps = {
        "resolution": (
            f"the name {facts['host']} leads nowhere",
            start if is_ours else f"set {prefix}_HOST in {file} to a name or address that does",
        ),
        "refused": ("nobody listens there", start),
        "sentinel": ("none of REDIS_SENTINELS knows a master", "scripts/logs sentinel"),
        "timeout": (
            "no answer in time: it hangs, or a firewall drops what comes",
            f"{examined.restart(name)}; scripts/logs {name}" if is_ours else start,
        ),
        "login": (
            f"it refuses {prefix}_USER with {prefix}_PASSWORD",
            f"set {prefix}_PASSWORD in {file} to the one that it knows, then: "
            f"{examined.apply_settings()}",
        ),
        "database": (
            "there is no such database",
            f"set POSTGRES_DB in {file} to one that is there, or restore it: scripts/restore",
        ),
    }.get(facts["problem"], ("it does not do what it should", f"scripts/logs {name}"))
    return error(f"{where}: {seen} ({facts['detail']})", helps)


def check_migrations(examined: Examined) -> Findings:
    pending = examined.part("pending_migrations", "postgresql")
    if pending:
        more = f" and {len(pending) - 3} more" if len(pending) > 3 else ""
        seen = f"not applied: {', '.join(pending[:3])}{more}"
        yield error(seen, f"{examined.manage} migrate")
    else:
        yield ok("all are applied")


def check_eviction(examined: Examined) -> Findings:
    """Redis evicts nothing, and has room."""
    facts = _memory_of_redis(examined)
    policy = facts["maxmemory_policy"]
    if policy != "noeviction":
        seen = f"Redis' maxmemory-policy is {policy}: when it is full, it drops messages and locks"
        yield error(seen, _set_noeviction(examined))
        return
    used, limit = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    room = f", {cli.size(used)} of {cli.size(limit)} used" if limit else ""
    if limit and used > 0.8 * limit:
        helps = "scripts/queues list; more by REDIS_MAXMEMORY"
        yield warning(f"Redis is nearly full{room}", helps)
    else:
        yield ok(f"maxmemory-policy is noeviction{room}")


def _memory_of_redis(examined: Examined) -> dict[str, str]:
    """`INFO memory`, which the application's own user may not ask for."""
    if examined.probe["redis"]["problem"] not in (None, "login"):
        raise OpsError("Redis does not answer")
    server = examined.deployment.redis()
    if server is None:
        raise OpsError("the application's user may not ask; on the host of Redis: redis-cli INFO")
    try:
        text = server.call("INFO", "memory")
    except OSError as failure:
        raise OpsError(f"Redis does not answer: {failure}") from failure
    return dict(re.findall(r"^(\w+):(.*?)\r?$", text, re.MULTILINE))


def _set_noeviction(examined: Examined) -> str:
    if examined.deployment.way == "embedded":  # which has no redis-cli
        return examined.start("redis")
    client = f"{examined.compose} exec redis redis-cli"
    if examined.deployment.way != "compose":
        client = "redis-cli --user operator --askpass"
    return f"{client} CONFIG SET maxmemory-policy noeviction"


def check_clock(examined: Examined) -> Findings:
    seen = examined.probe
    clocks = {"the application": seen["skew"]}
    for name, title in (("postgres", "PostgreSQL"), ("redis", "Redis")):
        if "ahead" in seen[name]:
            clocks[title] = seen[name]["ahead"] + seen["skew"]
    wrong = {name: seconds for name, seconds in clocks.items() if abs(seconds) > SKEW}
    for name, seconds in wrong.items():
        way = "ahead of" if seconds > 0 else "behind"
        said = f"{name}'s clock is {cli.duration(abs(seconds))} {way} this host's"
        yield warning(said, "set the clocks by NTP on each host: timedatectl set-ntp true")
    if not wrong:
        yield ok(f"this host and {', '.join(clocks)} agree")


# --- Work ----------------------------------------------------------------------------------------
def check_beat(examined: Examined) -> Findings:
    if examined.instances("beat") and not examined.runs("beat"):
        yield error("beat does not run: no periodic task is published", examined.start("beat"))
        return
    periodic = examined.part("periodic", "redis")
    overdue = [name for name, entry in periodic.items() if entry["overdue"]]
    if overdue:
        more = f" and {len(overdue) - 1} more" if len(overdue) > 1 else ""
        helps = f"{examined.restart('beat')}; scripts/logs beat"
        yield error(f"beat does not tick: {overdue[0]}{more} overdue", helps)
    else:
        yield ok(f"{len(periodic)} periodic tasks, none overdue")


def check_queues(examined: Examined) -> Findings:
    for name, facts in examined.part("queues", "broker").items():
        depth, limit = facts["depth"], facts["limit"]
        workers = ", ".join(facts["workers"])
        said = f"{name}: {depth} waiting"
        if not facts["workers"]:
            yield error(f"{said}, and no worker takes them", examined.start("worker"))
        elif limit and depth >= limit:
            yield error(f"{said}, it is full: publications fail", _relief(name))
        elif limit and depth >= 0.8 * limit:
            yield warning(f"{said} of {limit} that may", _relief(name))
        else:
            yield ok(f"{said}, taken by {workers}")


def _relief(queue: str) -> str:
    return f"scripts/scale worker 2, or look at what waits: scripts/queues peek {queue}"


# --- The host ------------------------------------------------------------------------------------
def check_disk(examined: Examined) -> Findings:
    folders = [PROJECT, *examined.deployment.folders()]
    devices: dict[int, Path] = {}
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        devices.setdefault(there.stat().st_dev, there)
    for folder in devices.values():
        usage = shutil.disk_usage(folder)
        yield disk_finding(folder, usage.free, usage.total)


def disk_finding(folder: Path, free: int, total: int) -> Finding:
    seen = f"{cli.size(free)} of {cli.size(total)} are free at {folder}"
    wanted = min(FREE_BYTES, FREE_PART * total)
    if free >= wanted:
        return ok(seen)
    helps = "make room: old images (docker image prune), backups, logs"
    return (error if free < wanted / 5 else warning)(seen, helps)


# --- Compose -------------------------------------------------------------------------------------
def check_localstack(examined: Examined) -> Findings:
    """An image that asks for an account, and no token for it."""
    deployment = examined.deployment
    if not isinstance(deployment, Compose):
        return
    service = deployment.config["services"].get("localstack")
    if not service:
        return
    image = service["image"]
    if asks_for_token(image) and not service.get("environment", {}).get("LOCALSTACK_AUTH_TOKEN"):
        helps = (
            "in .env: LOCALSTACK_IMAGE=localstack/localstack:4.14.0, or LOCALSTACK_AUTH_TOKEN= "
            f"with an account's; then: {examined.compose} up --detach --wait localstack"
        )
        yield error(f"{image} does not start without LOCALSTACK_AUTH_TOKEN", helps)
    else:
        yield ok(image)


def asks_for_token(image: str) -> bool:
    """Releases of LocalStack after 4.14.0; a tag such as `latest` is one of them."""
    name, _, tag = image.rpartition("/")[2].partition("@")[0].partition(":")
    if not name.startswith("localstack"):
        return False
    version = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", tag)
    if not version:
        return True
    return tuple(int(part or 0) for part in version.groups()) > LOCALSTACK_FREE


def check_image(examined: Examined) -> Findings:
    """The image has this folder's code and packages, and the containers run that image."""
    deployment = examined.deployment
    if not isinstance(deployment, Compose):
        return
    build = f"{examined.compose} up --detach --build --wait"
    older = [item["Name"].lstrip("/") for item in deployment.containers() if _is_older(item)]
    if older:
        yield warning(f"{', '.join(older)}: of an image that was replaced since", build)
    theirs, ours = examined.probe["code"], code(PROJECT)
    changed = sorted(name for name in theirs.keys() | ours if theirs.get(name) != ours.get(name))
    if changed:
        more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
        yield warning(f"the image is of other code than this folder: {changed[0]}{more}", build)
    wanted = _pins((PROJECT / "requirements" / "base.txt").read_text(encoding="utf-8"))
    installed = examined.probe["packages"]
    missing = sorted(name for name in wanted if installed.get(name) != wanted[name])
    if missing:
        more = f" and {len(missing) - 1} more packages" if len(missing) > 1 else ""
        seen = f"the image lacks {missing[0]} {wanted[missing[0]]}{more} of requirements/base.txt"
        yield warning(seen, build)
    if not (older or changed or missing):
        yield ok("the image has this folder's code and packages")


def _is_older(item: dict[str, Any]) -> bool:
    if not item["State"]["Running"]:
        return False
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", item["Config"]["Image"]]
    now = shell.try_run(command, timeout=20)
    return now.returncode == 0 and now.stdout.strip() != item["Image"]


def _pins(text: str) -> dict[str, str]:
    """The packages that every Python gets, by their names as they are compared."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*?\])?==([^\s;\\]++)(?!\s*;)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in found}


def _file(examined: Examined) -> str:
    file = examined.deployment.settings_file.path
    return str(file.relative_to(PROJECT)) if file.is_relative_to(PROJECT) else str(file)


CHECKS: tuple[Callable[[Examined], Findings], ...] = (
    check_services,
    check_ports,
    check_localstack,
    check_disk,
    check_variables,
    check_application,
    check_secrets,
    check_restart,
    check_image,
    check_postgres,
    check_redis,
    check_eviction,
    check_clock,
    check_migrations,
    check_beat,
    check_queues,
)
