"""scripts/upgrade and scripts/rollback on the embedded way, in a clone of this source."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from deploy.embedded.api import Api
from deploy.embedded.environment import PORTS, parse
from deploy.embedded.servers import free_port

pytestmark = pytest.mark.worker

ROOT = Path(__file__).resolve().parent.parent
HEALTH = "marketplace/health.py"
QUICKLY = ("--on", "embedded", "--yes", "--watch", "2")
NO_START = ("marketplace/asgi.py", "import os\n", "import os\nimport nothing_at_all\n")


@dataclass
class Clone:
    folder: Path
    data: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = {"VENV": sys.prefix, "EMBEDDED_DIR": str(self.data)}
        ports = {name: str(port) for name, port in self.ports.items()}
        return subprocess.run(
            [self.folder / "scripts" / script, *arguments],
            env=dict(os.environ) | given | ports,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def upgrade(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("upgrade", *QUICKLY, "--no-backup", *arguments)

    def rollback(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("rollback", *QUICKLY, *arguments)

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Tests", "-c", "user.email=tests@localhost")
        command = ["git", "-C", str(self.folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.folder / file).read_text()
        assert old in text, file
        (self.folder / file).write_text(text.replace(old, new, 1))

    def commit(self, file: str, old: str, new: str) -> str:
        """A release; its name."""
        self.edit(file, old, new)
        self.git("commit", "--quiet", "--all", "--message", new)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "--short", "HEAD")

    def allowed(self, command: str) -> bool:
        """Whether the application may give this command to the Redis that runs."""
        file = self.data / "env"
        password = parse(file.read_text(), file)["OPERATOR_PASSWORD"]
        port = self.ports["EMBEDDED_REDIS_PORT"]
        with redis.Redis(port=port, username="operator", password=password) as client:
            rules = client.acl_getuser("marketplace")
        assert rules is not None
        return f"+{command}" in rules["commands"]

    def says(self) -> str:
        """What /healthz answers, which tells the releases of this test apart."""
        api = Api(f"http://127.0.0.1:{self.ports['HOST_PORT_WEB']}")
        return str(api.call("GET", "/healthz")[1]["status"])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Running, on its first commit."""
    made = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("data") / "embedded")
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made.folder / name)
    made.git("init", "--quiet")
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "first")
    try:
        started = made.run("quickstart")
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        made.run("quickstart", "stop")


def test_a_release_takes_over_goes_back_when_it_is_broken_and_on_demand(clone: Clone) -> None:
    first = clone.head()
    done = clone.rollback()
    assert (done.returncode, "scripts/upgrade has put none here" in done.stderr) == (1, True)

    clone.edit("compose/redis/application.rules", "+ping", "+ping +geoadd")
    new = clone.commit(HEALTH, '{"status": "ok"}', '{"status": "new"}')
    done = clone.upgrade()
    assert done.returncode == 0, done.stderr
    assert clone.allowed("geoadd"), "the running Redis does not take the release's commands"
    assert f"{new} runs; back to {first}: scripts/rollback" in done.stdout
    assert clone.says() == "new"
    assert f"{new} runs already" in clone.upgrade().stdout

    broken = clone.commit(*NO_START)
    done = clone.upgrade()
    assert done.returncode == 1
    assert f"warning: {broken} did not take over, going back to {new}" in done.stderr
    assert f"error: {new} runs again" in done.stderr
    assert (clone.head(), clone.says()) == (new, "new")

    assert clone.rollback("--list").stdout.split() == [first, new, "runs"]
    done = clone.rollback()
    assert done.returncode == 0, done.stderr
    assert (clone.head(), clone.says()) == (first, "ok")
    assert clone.rollback("--list").stdout.split() == [first, "runs"]


def test_what_may_not_follow_is_refused_before_anything_changes(clone: Clone) -> None:
    head, answer = clone.head(), clone.says()
    task = "promotions.tasks.cleanup_expired_promos"
    clone.edit("promotions/tasks.py", "def cleanup_expired_promos", "def renamed")
    try:
        done = clone.upgrade()
    finally:
        clone.git("checkout", "--quiet", "--", ".")
    assert done.returncode == 1
    assert f"{task} is gone" in done.stderr
    assert (clone.head(), clone.says()) == (head, answer)


@pytest.mark.parametrize(
    ("script", "arguments", "code", "error"),
    [
        ("upgrade", ["v2"], 2, "error: the embedded way runs what this clone holds and takes no"),
        ("rollback", ["v0"], 1, "error: there is no release to go back to"),
        ("upgrade", ["--nonsense"], 2, "unrecognized arguments: --nonsense"),
    ],
)
def test_what_is_called_wrongly_is_named(
    clone: Clone, script: str, arguments: list[str], code: int, error: str
) -> None:
    done = clone.run(script, "--on", "embedded", *arguments)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
