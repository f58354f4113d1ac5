"""The commands of `scripts/quickstart`."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from deploy.embedded import demonstration, ports, preparation, processes
from deploy.embedded.api import Api
from deploy.embedded.environment import PORTS, Environment
from deploy.embedded.errors import ProgramError, QuickstartError
from deploy.embedded.folder import PROJECT, Folder
from deploy.embedded.screen import Screen
from deploy.embedded.supervisor import (
    PROGRAMS,
    SERVERS,
    WATCHDOG,
    Supervisor,
    base_name,
    log_names,
)

COMMAND = "scripts/quickstart"
DATA_MEGABYTES = 300
NOT_RUNNING = 3

DESCRIPTION = """\
Runs Flash Promos on this machine with Python 3.11+ and PyPI alone: no PostgreSQL, Redis, Docker or
root needed. Without a command it starts everything (PostgreSQL, Valkey, an SNS/SQS server, web,
worker, beat and Flower), seeds a demo, and shows a promo open, its shoppers told and a reservation
made. Running it again is quick, brings back what crashed and keeps the data.
"""

EPILOG = f"""\
variables, kept from the first run on in var/embedded/env, which wins over the shell:
{chr(10).join(f"  {name:<24}{default}" for name, default in PORTS.items())}
variables of the shell:
  {"EMBEDDED_DIR":<24}where data, logs and the env file lie (var/embedded)
  {"VENV":<24}where the Python packages go (.venv)
  {"PYTHON":<24}the Python to make it with (the newest found)
"""


def parser(folder: Folder) -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog=COMMAND,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = root.add_subparsers(dest="command", metavar="[COMMAND]", title="commands")
    commands.add_parser("start", help="start everything (the default)")
    commands.add_parser("stop", help="stop everything; the data stays")
    commands.add_parser("status", help="what runs, and the addresses")
    names = log_names(folder)
    logs = commands.add_parser("logs", help="show a program's log")
    logs.add_argument("name", metavar="NAME", choices=names, help=", ".join(names))
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("-n", "--lines", type=int, default=50, help="how many lines (50)")
    run = commands.add_parser("run", help="run a command in the system's environment")
    run.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER)
    reset = commands.add_parser("reset", help="stop everything and delete its data; backups stay")
    reset.add_argument("--yes", action="store_true", help="don't ask")
    return root


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    folder = Folder.from_environment()
    arguments = parser(folder).parse_args()
    try:
        code = {
            "start": lambda: start(folder),
            "stop": lambda: stop(folder),
            "status": lambda: status(folder),
            "logs": lambda: logs(folder, arguments.name, arguments.lines, arguments.follow),
            "run": lambda: run(folder, arguments.words),
            "reset": lambda: reset(folder, yes=arguments.yes),
        }[arguments.command or "start"]()
    except ProgramError as error:
        _explain(folder, error)
        code = 1
    except QuickstartError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def start(folder: Folder) -> int:
    screen, supervisor = Screen(), Supervisor(folder)
    screen.line("Flash Promos, the embedded way: in this folder and on 127.0.0.1 alone.")
    screen.line()
    with folder.locked():
        environment = Environment.load(folder)
        running = _settle(folder, environment, supervisor, screen)
        environment.save()
        folder.make()
        try:
            admin_is_ours = _bring_up(folder, environment, supervisor, screen, running=running)
            api = Api(environment.url(""))
            with screen.step("Waiting for beat and the worker to open a promo") as step:
                promo = demonstration.wait_for_delivery(supervisor, step)
                step.update("A promo is open and its notifications are delivered")
            with screen.step("Reserving through the API") as step:
                held = demonstration.reserve(api, promo, environment.values["DEMO_PASSWORD"])
                step.update("Reserved through the API")
        except BaseException:
            if not running:
                with screen.step("Stopping what was started"):
                    supervisor.stop()
            raise
    _report(screen, environment, promo, held, admin_is_ours=admin_is_ours)
    return 0


def _settle(
    folder: Folder, environment: Environment, supervisor: Supervisor, screen: Screen
) -> bool:
    """Clear the ground; return whether a current supervisord runs already."""
    if supervisor.is_running():
        if environment.is_saved() and not supervisor.is_outdated():
            return True
        with screen.step("Stopping, as the configuration changed"):
            environment.ports  # noqa: B018  a wrong one stops here, with all still running
            supervisor.stop()
    elif processes.of_folder(folder.path):
        with screen.step("Stopping what an earlier run left behind") as step:
            supervisor.stop()
            step.update("Stopped what an earlier run left behind")
    ports.check(environment.ports)
    free = shutil.disk_usage(folder.path).free // 2**20
    if free < DATA_MEGABYTES:
        raise QuickstartError(
            f"the disk is too full: {folder.path} needs {DATA_MEGABYTES} MB, {free} MB are free"
        )
    return False


def _bring_up(
    folder: Folder,
    environment: Environment,
    supervisor: Supervisor,
    screen: Screen,
    *,
    running: bool,
) -> bool:
    """Servers, tables, demo, programs; return whether the generated password is the admin's."""
    static = preparation.StaticFiles(folder, environment)
    try:
        with screen.step("Starting PostgreSQL, Valkey and an SNS/SQS server") as step:
            if not running:
                supervisor.start(environment)
            preparation.setup_django(environment)
            preparation.wait_for_servers(folder, supervisor, step)
            step.update("PostgreSQL, Valkey and an SNS/SQS server run")
        with screen.step("Migrating the database and seeding the demo") as step:
            preparation.migrate(folder)
            preparation.seed_demo(folder)
            admin_is_ours = preparation.ensure_admin(folder, environment.values["ADMIN_PASSWORD"])
            step.update("The database is migrated, the demo seeded")
        with screen.step("Starting web, worker, beat and Flower") as step:
            static.wait()
            supervisor.start_programs()
            demonstration.wait_until_ready(Api(environment.url("")), supervisor)
            step.update("web, worker, beat and Flower run")
    finally:
        static.stop()
    return admin_is_ours


def _report(
    screen: Screen,
    environment: Environment,
    promo: demonstration.Promo,
    held: str,
    *,
    admin_is_ours: bool,
) -> None:
    values = environment.values
    told = f"{promo.told}, delivered {promo.delivered}"
    if not promo.told:
        told = "none of this one: all were told of another promo today"
    password = values["ADMIN_PASSWORD"] if admin_is_ours else "(the password you set)"
    flower_user, _, flower_password = values["FLOWER_BASIC_AUTH"].partition(":")
    screen.line(f"""
What happened
  Promo opened    {promo.product} at {promo.store}: {promo.price} instead of {promo.list_price}
  Shoppers told   {told}
  Reservation     {held}

Where to look
  Web             {environment.url()}
  API docs        {environment.url("/api/schema/swagger/")}
  Admin           {environment.url("/admin/")}   user admin, password {password}
  Flower          {environment.url(port="HOST_PORT_FLOWER")}   \
user {flower_user}, password {flower_password}
  Demo shopper    user {demonstration.SHOPPER}, password {values["DEMO_PASSWORD"]}

It goes on running. {COMMAND} status | logs NAME [-f] | stop | reset""")


def stop(folder: Folder) -> int:
    screen = Screen()
    if not folder.path.exists():
        screen.line("Nothing runs.")
        return 0
    with folder.locked(), screen.step("Stopping; a running task may finish") as step:
        ran = Supervisor(folder).stop()
        step.update("Stopped; the data stays" if ran else "Nothing ran")
    return 0


def status(folder: Folder) -> int:
    states = Supervisor(folder).states()
    if not states:
        print(f"Nothing runs. Start it with {COMMAND}")
        return NOT_RUNNING
    order = [*SERVERS, *PROGRAMS, WATCHDOG]
    for name in sorted(states, key=lambda name: (order.index(base_name(name)), name)):
        facts = states[name]
        print(f"{name:<10}{facts['statename']:<10}{facts['description']}")
    environment = Environment.load(folder, shell={})
    print(f"\nWeb       {environment.url()}")
    print(f"Flower    {environment.url(port='HOST_PORT_FLOWER')}")
    print(f"Passwords {folder.env_file}")
    down = any(facts["statename"] != "RUNNING" for facts in states.values())
    return NOT_RUNNING if down else 0


def logs(folder: Folder, name: str, lines: int, follow: bool) -> int:
    log = folder.log(name)
    if not log.exists():
        raise QuickstartError(f"there is no log of {name} yet: {log}")
    sys.stdout.flush()
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)]
    os.execvp(command[0], command)  # noqa: S606


def run(folder: Folder, words: list[str]) -> int:
    if not folder.env_file.exists():
        raise QuickstartError(f"nothing was started here yet: run {COMMAND} first")
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise QuickstartError(f"give a command, as in: {COMMAND} run python manage.py shell")
    variables = Environment.load(folder, shell={}).of_programs() | {"PYTHONPATH": str(PROJECT)}
    os.chdir(os.environ.get("QUICKSTART_CALLER") or PROJECT)
    try:
        os.execvpe(words[0], words, variables)  # noqa: S606
    except OSError as error:
        raise QuickstartError(f"{words[0]}: {error.strerror}") from error


def reset(folder: Folder, *, yes: bool) -> int:
    screen = Screen()
    if not folder.path.exists():
        screen.line("There is nothing to delete.")
        return 0
    if not yes and not _confirmed(f"Stop everything and delete the data in {folder.path}?"):
        print("Nothing was deleted.", file=sys.stderr)
        return 1
    with folder.locked(), screen.step(f"Deleting {folder.path}") as step:
        Supervisor(folder).stop()
        folder.remove()
        step.update(f"Deleted {folder.path}")
    if folder.path.exists():
        stays = ", ".join(sorted(path.name for path in folder.path.iterdir()))
        screen.line(f"In {folder.path} stays what is not the system's own data: {stays}")
    return 0


def _confirmed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print(f"\nNobody answers; {COMMAND} reset --yes does not ask.", file=sys.stderr)
        return False


def _explain(folder: Folder, error: ProgramError) -> None:
    """The reason, the last lines of the log that tells more, and how to see the rest."""
    print(f"error: {error}", file=sys.stderr)
    log: Path = folder.log(error.program)
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        print(f"The end of {log}:", file=sys.stderr)
        for line in lines:
            print(f"  {line}", file=sys.stderr)
        print(f"More: {COMMAND} logs {error.program} -n 500", file=sys.stderr)
