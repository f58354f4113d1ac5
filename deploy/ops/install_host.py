"""scripts/install-host: this host runs Flash Promos, under systemd or supervisor."""

import argparse
import ipaddress
import os
import re
import shutil
import socket
from pathlib import Path

from deploy.ops import cli
from deploy.ops.compose import Compose
from deploy.ops.deployment import PROGRAMS, PROJECT, Deployment
from deploy.ops.embedded import Embedded
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.host import DATA, ETC, HOME, LOGS, MANAGER, USER, WORKERS, Host, Supervisor, Systemd
from deploy.ops.installing import uninstall
from deploy.ops.installing.programs import (
    SUPERVISOR,
    CurrentRelease,
    Enabled,
    Healthy,
    Migrated,
    Started,
    Units,
    supervised,
    supervised_here,
    wrapper,
)
from deploy.ops.installing.servers import (
    LocalPostgres,
    LocalRedis,
    SharedPostgres,
    postgres_fault,
    redis_fault,
)
from deploy.ops.installing.settings import PATH, Settings
from deploy.ops.installing.steps import File, Folder, Packages, Step, User, carry_out
from deploy.ops.releases import Releases

DESCRIPTION = """\
Installs Flash Promos on this Debian host: user, folders, environment file, Python packages, tables
and units, and PostgreSQL and Redis where the environment file says that they are here. It looks at
everything first, then does what is not done yet; run again, it finds nothing to do. A newer release
comes by scripts/upgrade.

  systemd      a unit for each program, which is the usual way
  supervisor   one unit, which runs supervisor, which runs the programs
  uninstall    takes the programs away; the data, the settings and the logs stay
"""
EPILOG = """\
examples:
  sudo scripts/install-host systemd --dry-run     what it would do
  sudo scripts/install-host systemd --apt         all on this host, from nothing
  scripts/init-env --print > my.env               settings to edit, and to install with:
  sudo scripts/install-host systemd --env my.env
  sudo scripts/install-host systemd --role worker --env copy-of-the-first-hosts.env
  sudo scripts/install-host uninstall
"""
QUEUES = "high_priority:default:low_priority"
HOSTS: dict[str, type[Host]] = {"systemd": Systemd, "supervisor": Supervisor}
#: Megabytes that must be free where a folder will be.
SPACE = ((HOME, 1000), (DATA, 500), (LOGS, 200))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/install-host",
        description=DESCRIPTION.strip(),
        epilog=f"{EPILOG}\n{cli.EXIT_CODES}".strip(),
        formatter_class=cli.Formatter,
    )
    made.add_argument("what", choices=(*HOSTS, "uninstall"), metavar="systemd|supervisor|uninstall")
    made.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )
    made.add_argument("--yes", action="store_true", help="delete without a question")
    installing = made.add_argument_group("installing")
    installing.add_argument(
        "--apt", action="store_true", help="install the Debian packages that are missing"
    )
    installing.add_argument(
        "--env", type=Path, metavar="FILE", help=f"becomes {PATH} when that is not there"
    )
    installing.add_argument(
        "--role",
        choices=("all", "worker"),
        help="worker: workers alone, for the Redis and PostgreSQL of another host (all)",
    )
    installing.add_argument(
        "--queues", metavar="A:B", help=f"the worker's queues, joined by colons ({QUEUES})"
    )
    installing.add_argument(
        "--beat", action="store_true", help="with --role worker: a beat in reserve, too"
    )
    installing.add_argument(
        "--share",
        metavar="NETWORK",
        help="PostgreSQL and Redis of this host answer other hosts, too: 10.0.0.0/24",
    )
    removing = made.add_argument_group("uninstall")
    removing.add_argument(
        "--delete-data",
        action="store_true",
        help="the database, the queues, backups, settings and logs go, too",
    )
    return made


def main() -> int | None:
    options = parser().parse_args()
    refuse_nonsense(options)
    require_host()
    if options.what == "uninstall":
        remove(options)
    else:
        install(options)
    return None


def refuse_nonsense(options: argparse.Namespace) -> None:
    if options.delete_data and options.what != "uninstall":
        raise UsageError("--delete-data belongs to uninstall")
    if options.beat and options.role != "worker":
        raise UsageError("--beat belongs to --role worker; a host with all has beat")
    if options.share and options.role == "worker":
        raise UsageError("--share belongs to the host that has PostgreSQL and Redis")
    if options.queues and not re.fullmatch(r"[a-z0-9_]+(:[a-z0-9_]+)*", options.queues):
        raise UsageError(f"--queues {options.queues}: expected names joined by colons, as {QUEUES}")
    if options.share:
        try:
            ipaddress.ip_network(options.share)
        except ValueError as error:
            raise UsageError(f"--share {options.share}: {error}; expected 10.0.0.0/24") from None


# --- Looking first -------------------------------------------------------------------------------
def require_host() -> None:
    """A Debian with systemd, and root on it."""
    release = os_release()
    if "debian" not in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        name = release.get("PRETTY_NAME", "this system")
        raise OpsError(f"{name} is no Debian: docs/bare-hosts.md says what there is to do by hand")
    if not Path("/run/systemd/system").exists():
        raise OpsError("systemd does not run here, which starts the programs with the host")
    if os.geteuid() != 0:
        raise OpsError("this sets up the host: use sudo")


def os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def require_room() -> None:
    for folder, needed in SPACE:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free // 10**6
        if free < needed:
            raise OpsError(f"the disk is too full: {folder} needs {needed} MB, {free} MB are free")


def require_alone(what: str) -> None:
    """No other deployment is on this host, and no other release."""
    installed = MANAGER.read_text().strip() if MANAGER.exists() else what
    if installed != what:
        raise OpsError(
            f"this host runs under {installed}: scripts/install-host uninstall first, which keeps "
            "the data"
        )
    others: list[Deployment | None] = [Compose.find(), Embedded.find()]
    for other in filter(None, others):
        if any(other.running(name) for name in PROGRAMS):
            raise OpsError(f"{other.describe()} runs on this host: stop that one first")
    current = Releases().current()
    if current and MANAGER.exists() and not CurrentRelease().is_done():
        new = Releases().of(PROJECT).name
        raise OpsError(
            f"this host runs the release {current.name}, and the files here are {new}: "
            f"{PROJECT}/scripts/upgrade brings it there"
        )


def require_ports(settings: Settings) -> None:
    if MANAGER.exists():
        return  # our own programs have them
    for name, (address, port) in (("WEB_BIND", settings.web), ("FLOWER_PORT", settings.flower)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise OpsError(
                    f"port {port} on {address} cannot be had: {error.strerror} (ss -ltnp shows by "
                    f"whom; {name} in {PATH} names another)"
                ) from error


def require_servers(settings: Settings) -> None:
    """Those elsewhere answer; those of this host are set up by steps."""
    if not settings.postgres.is_local and (fault := postgres_fault(settings.postgres)):
        raise OpsError(fault)
    if not settings.redis.is_local and (fault := redis_fault(settings.redis)):
        raise OpsError(fault)


# --- Installing ----------------------------------------------------------------------------------
def install(options: argparse.Namespace) -> None:
    require_alone(options.what)
    role = role_of(options)
    settings = Settings.plan(options.env, may_be_fresh=role == "all")
    settings.check()
    require_room()
    if role == "all":
        require_ports(settings)
    packages = Packages(packages_for(settings, role), options.apt)
    changes = carry_out([packages], dry_run=options.dry_run)
    if packages.is_done():
        require_servers(settings)
    changes += carry_out(steps(options, role, settings), dry_run=options.dry_run)
    report(options, changes, settings, role)


def role_of(options: argparse.Namespace) -> str:
    """The one that was asked for, else that of an installation before, else all."""
    here = ""
    if instances(options.what, "worker"):
        here = "all" if instances(options.what, "web") else "worker"
    if here and options.role not in (None, here):
        raise OpsError(
            f"this host was set up with --role {here}: scripts/install-host uninstall first, which "
            "keeps the data"
        )
    return options.role or here or "all"


def instances(way: str, name: str) -> list[str]:
    """Those of an installation before."""
    if not MANAGER.exists():
        return []
    if way == "supervisor":
        return [name] if SUPERVISOR.exists() and name in supervised_here()[0] else []
    return Systemd().instances(name)


def packages_for(settings: Settings, role: str) -> dict[str, str]:
    """By a program of each."""
    packages = {"psql": "postgresql-client"}
    has_postgres = shutil.which("psql") and not postgres_fault(settings.postgres)
    if role == "all" and settings.postgres.is_local and not has_postgres:
        packages["pg_ctlcluster"] = "postgresql"
    if role == "all" and settings.redis.is_local and redis_fault(settings.redis):
        packages["redis-server"] = "redis-server"
    return packages


def steps(options: argparse.Namespace, role: str, settings: Settings) -> list[Step]:
    host = HOSTS[options.what]()
    has_beat = options.beat or bool(instances(options.what, "beat"))
    services = PROGRAMS if role == "all" else ("worker", "beat") if has_beat else ("worker",)
    return [
        User(),
        Folder(ETC, 0o750, "root", USER),
        Folder(HOME),
        Folder(DATA, 0o750, USER, USER),
        Folder(LOGS, 0o750, USER, USER),
        settings.step(),
        *(server_steps(options, settings) if role == "all" else ()),
        CurrentRelease(),
        Migrated(host, may_migrate=role == "all"),
        wrapper(),
        File(MANAGER, f"{options.what}\n"),
        *program_steps(options, services, settings),
        Healthy(host, services, settings.web),
    ]


def server_steps(options: argparse.Namespace, settings: Settings) -> list[Step]:
    found: list[Step] = []
    if settings.postgres.is_local:
        found.append(LocalPostgres(settings.postgres))
    if settings.redis.is_local:
        maxmemory = settings.get("REDIS_MAXMEMORY", "256mb")
        found.append(LocalRedis(settings.redis, maxmemory, bool(options.share)))
    if options.share:
        found.append(SharedPostgres(settings.postgres, options.share))
    return found


def program_steps(
    options: argparse.Namespace, services: tuple[str, ...], settings: Settings
) -> list[Step]:
    if options.what == "supervisor":
        queues = options.queues or supervised_here()[1]
        units: tuple[str, ...] = (SUPERVISOR.name,)
        return [
            Units("supervisor", settings.web, files=supervised(services, queues)),
            Enabled(units),
            Started(units),
        ]
    workers = instances("systemd", "worker") if not options.queues else []
    workers = workers or [f"{WORKERS}{options.queues or QUEUES}.service"]
    sockets = ["marketplace-web.socket"] if "web" in services else []
    others = [f"marketplace-{name}.service" for name in services if name != "worker"]
    units = ("marketplace.target", *sockets, *others, *workers)
    return [Units("systemd", settings.web), Enabled(units), Started(units)]


def report(options: argparse.Namespace, changes: int, settings: Settings, role: str) -> None:
    if not changes:
        cli.say("nothing to do: this host is as it should be")
    elif options.dry_run:
        cli.say("nothing was changed: without --dry-run this would be done")
    elif role == "all":
        address, port = settings.web
        cli.say(f"Flash Promos runs at http://{address}:{port}/; flash-promos status shows it")
    else:
        cli.say("the workers run; flash-promos status shows them")


# --- Uninstalling --------------------------------------------------------------------------------
def remove(options: argparse.Namespace) -> None:
    found = uninstall.steps(delete_data=options.delete_data)
    if all(step.is_done() for step in found):
        cli.say("nothing to do: Flash Promos is not installed here")
        return
    if options.delete_data and not options.dry_run:
        for step in found:
            if not step.is_done():
                cli.say(f"this will {step.describe()}")
        cli.confirm("Delete all that, for ever?", yes=options.yes)
    carry_out(found, dry_run=options.dry_run)
    if options.dry_run:
        cli.say("nothing was changed: without --dry-run this would be done")
    elif not options.delete_data:
        cli.say(f"the data stays: {DATA}, {ETC}, {LOGS}, the database and the queues")


if __name__ == "__main__":
    cli.run(main)
