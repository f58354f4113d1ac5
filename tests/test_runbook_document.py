"""docs/runbook.md: each of its commands, on a real system that has the very trouble."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from celery import Celery

from deploy.embedded.folder import Folder
from deploy.embedded.supervisor import call
from tests.embedded import ROOT, Done, Quickstart, running_embedded
from tests.processes import wait_until

pytestmark = pytest.mark.worker

DOCUMENT = ROOT / "docs" / "runbook.md"
TASKS = "tests.runbook_tasks"
#: These only look: they are run again until they show what is to be seen. The first two exit with 1
#: when something is wrong.
REPORTS = ("status", "doctor")
LOOKS = (*REPORTS, "logs", "queues list", "dead-letters list")


@dataclass(frozen=True)
class Command:
    words: list[str]
    #: Lines of its output, in their order; … is anything.
    shows: list[str] = field(default_factory=list)

    @property
    def only_looks(self) -> bool:
        return " ".join(self.words).startswith(LOOKS)


def sections() -> dict[str, list[list[Command]]]:
    """Of each heading, its blocks of commands."""
    found: dict[str, list[list[Command]]] = {}
    for part in re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading = part.partition("\n")[0]
        blocks = re.findall(r"^```console\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        if blocks:
            found[heading] = [parsed(block) for block in blocks]
    return found


def parsed(block: str) -> list[Command]:
    commands: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ scripts/"):
            commands.append(Command(shlex.split(line.removeprefix("$ scripts/"))))
        else:
            commands[-1].shows.append(line)
    return commands


SECTIONS = sections()


# --- The system ----------------------------------------------------------------------------------
@dataclass
class System:
    quickstart: Quickstart
    celery: Celery

    def do(self, method: str, *programs: str) -> None:
        for program in programs:
            call(Folder(self.quickstart.folder).socket, method, program)

    def publish(self, name: str, *arguments: object, queue: str = "default") -> str:
        return str(self.celery.send_task(f"{TASKS}.{name}", arguments, queue=queue).id)

    def run(self, command: Command, values: dict[str, str]) -> Done:
        name, *words = command.words
        return self.quickstart.ops(name, *(values.get(word, word) for word in words))

    def shows(self, command: Command, values: dict[str, str]) -> bool:
        """It ends as it should, and its output is what the document says."""
        done = self.run(command, values)
        self.last = f"{shlex.join(command.words)}\n{done.stdout}\n{done.stderr}"
        self.output = done.stdout
        allowed = (0, 1) if command.words[0] in REPORTS else (0,)
        return done.returncode in allowed and pattern(command).search(done.stdout) is not None

    def follow(self, command: Command, values: dict[str, str]) -> None:
        try:
            seconds = 90 if command.only_looks else 0
            wait_until(lambda: self.shows(command, values), seconds=seconds)
        except AssertionError:
            raise AssertionError(self.last) from None

    def is_well(self) -> bool:
        done = self.quickstart.ops("status")
        self.last = done.stdout
        return done.returncode == 0


def pattern(command: Command) -> re.Pattern[str]:
    """Of its lines, each somewhere, one after the other."""
    lines = [line.strip() for line in command.shows if line.strip() not in ("", "…")]
    texts = (r"[^\n]*".join(re.escape(piece) for piece in line.split("…")) for line in lines)
    return re.compile(r"[\s\S]*?".join(texts))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("document") / "embedded"
    with running_embedded(folder, env=f"CELERY_IMPORTS={TASKS}\n") as quickstart:
        port, password = (
            quickstart.ports["EMBEDDED_REDIS_PORT"],
            quickstart.values["REDIS_PASSWORD"],
        )
        url = f"redis://marketplace:{password}@127.0.0.1:{port}/0"
        with Celery(broker=url, backend=url, set_as_current=False) as celery:
            yield System(quickstart, celery)


# --- The troubles --------------------------------------------------------------------------------
#: What is wrong before the first block of a section, and what somebody does before each further
#: one; what it gives are the words of the block that stand for others.
Trouble = Iterator[dict[str, str]]


def nothing(system: System) -> Trouble:
    yield from ()


def stopped(program: str, starts: bool) -> Callable[[System], Trouble]:
    """A program or server is down; `starts`: the text, not a command, says to start it."""

    def trouble(system: System) -> Trouble:
        system.do("stopProcess", program)
        yield {}
        if starts:
            system.do("startProcess", program)
            yield {}

    return trouble


def piled_up(system: System) -> Trouble:
    last = Path(system.quickstart.folder, "last")
    last.touch()
    # More than two workers run at once and take ahead.
    for _ in range(60):
        system.publish("last", str(last))
    yield {}
    yield {}
    last.unlink()


def running(system: System) -> Trouble:
    last = Path(system.quickstart.folder, "last")
    last.touch()
    yield {"TASK_ID": system.publish("last", str(last))}
    last.unlink()
    yield {}


def revoked(system: System) -> Trouble:
    task_id = system.publish("last", str(system.quickstart.folder))
    system.celery.control.revoke(task_id, terminate=True)
    yield {"TASK_ID": task_id}


def failed(system: System) -> Trouble:
    yield {"TASK_ID": system.publish("refuse")}
    yield {}
    system.quickstart.ops("dead-letters", "discard", "--all", "--yes")


def wrong_password(system: System) -> Trouble:
    file = system.quickstart.folder / "env"
    text = file.read_text()
    file.write_text(
        re.sub(r"(?m)^REDIS_PASSWORD=.*$", "REDIS_PASSWORD=another-one-than-it-knows", text)
    )
    yield {}
    file.write_text(text)


def backed_up(system: System) -> Trouble:
    assert system.quickstart.ops("backup").returncode == 0
    yield {}


TROUBLES: dict[str, Callable[[System], Trouble]] = {
    'A worker says "Connection refused", or does not connect to Redis': stopped(
        "redis", starts=True
    ),
    "PostgreSQL is away": stopped("postgres", True),
    "No worker processes tasks": stopped("worker", False),
    "Periodic tasks do not run": stopped("beat", True),
    "Tasks pile up": piled_up,
    "A task stays STARTED for ever": running,
    '"Task has been revoked"': revoked,
    "Tasks fail": failed,
    "Telemetry does not come": stopped("sandbox", True),
    "The web does not answer, or refuses": stopped("web", True),
    "A password was changed and nothing connects": wrong_password,
    "The disk is full": backed_up,
    "Data was deleted by mistake": backed_up,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_show_what_the_runbook_says(system: System, section: str):
    trouble = TROUBLES.get(section, nothing)(system)
    for block in SECTIONS[section]:
        values = dict(next(trouble, {}))
        for command in block:
            system.follow(command, values)
            if command.words[:2] == ["queues", "purge"]:
                values["FILE"] = next(word for word in system.output.split() if ".jsonl" in word)
    for _ in trouble:
        pass
    try:
        wait_until(system.is_well, seconds=120, what="all is well again")
    except AssertionError:
        raise AssertionError(system.last) from None


def test_every_trouble_is_a_section_of_the_document():
    assert TROUBLES.keys() <= SECTIONS.keys()


def test_every_alert_has_its_place_in_the_document():
    rules = (ROOT / "deploy" / "monitoring" / "rules.yml").read_text(encoding="utf-8")
    places = set(re.findall(r"docs/runbook\.md#(\S+)", rules))
    assert len(places) >= 10
    assert places == set(re.findall(r'<a id="(\w+)"></a>', DOCUMENT.read_text(encoding="utf-8")))


def test_every_command_of_the_runbook_is_in_it():
    """But for those that set up, upgrade or move a whole system, which other pages describe."""
    elsewhere = {"autoscale", "completion", "images", "install-host", "swarm", "upgrade"}
    elsewhere |= {"upgrade-postgres"}
    named = {
        command.words[0] for blocks in SECTIONS.values() for block in blocks for command in block
    }
    scripts = {
        path.name
        for path in (ROOT / "scripts").iterdir()
        if path.is_file() and "\nops " in path.read_text(encoding="utf-8")
    }
    assert scripts - elsewhere == named
