"""A Compose stack made from a copy of the tree, with names and ports that collide with nothing."""

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.ops.settings_file import SettingsFile
from tests.visitors import Visitors

PROJECT = Path(__file__).resolve().parents[2]
PRODUCTION = ("docker-compose.yml", "docker-compose.prod.yml")
AWS_IMAGE = "localstack/localstack:4.14.0"
PORTS = ("WEB", "FLOWER", "POSTGRES", "REDIS", "LOCALSTACK", "SANDBOX")

#: A file of a release, and in it what is replaced by what.
Edits = Mapping[str, tuple[str, str]]

# Nothing else of this shell's may reach the compose files.
INHERITED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT")


def copy_project(target: Path) -> Path:
    """Copy what a clone would hold, the uncommitted included, readable for everybody."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        source, copy = PROJECT / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return target


def free_ports() -> dict[str, str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {
        f"HOST_PORT_{name}": str(server.getsockname()[1])
        for name, server in zip(PORTS, sockets, strict=True)
    }
    for server in sockets:
        server.close()
    return ports


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return value


def open_promo_code(name: str) -> str:
    """For Django's shell: a store, a shopper beside it and a promo whose window has just begun."""
    return f"""
from datetime import timedelta
from django.contrib.auth.models import User
from django.utils import timezone
from promotions.models import FlashPromo, Product, ShopperProfile, Store

store = Store.objects.create(name={name!r}, latitude=19.4, longitude=-99.1)
user = User.objects.create_user({name!r})
ShopperProfile.objects.filter(user=user).update(latitude=19.4, longitude=-99.1)
product = Product.objects.create(store=store, name={name!r}, list_price=100)
now = timezone.now()
FlashPromo.objects.create(
    product=product, promo_price=60, quantity=5, starts_at=now, ends_at=now + timedelta(hours=1)
)
"""


def promo_state_code(name: str) -> str:
    """For Django's shell: prints `SCHEDULED`, or `ACTIVE DELIVERED`."""
    return f"""
from promotions.models import FlashPromo, Notification

promo = FlashPromo.objects.get(product__name={name!r})
statuses = Notification.objects.filter(promo=promo).values_list("status", flat=True)
print(promo.status, *statuses)
"""


@dataclass
class Stack:
    folder: Path
    files: tuple[str, ...] = ("docker-compose.yml",)
    #: HOST_PORT_*, as variables of the shell that calls Compose.
    ports: dict[str, str] = field(default_factory=free_ports)
    name: str = field(default_factory=lambda: f"flash-promos-test-{secrets.token_hex(4)}")
    #: Of the application, made by `up --build`; empty: one of this stack's own.
    image: str = ""
    #: Of the user that `make_staff` makes.
    token: str = ""
    #: More variables of that shell.
    variables: dict[str, str] = field(default_factory=dict)

    def shell(self, variables: dict[str, str]) -> dict[str, str]:
        """The environment of a shell whose `docker compose` means this stack."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        ours = {
            "APP_IMAGE": self.image or self.name,
            "COMPOSE_FILE": ":".join(self.files),
            "COMPOSE_PROJECT_NAME": self.name,
        }
        return inherited | ours | self.ports | self.variables | variables

    def try_run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in such a shell."""
        shell = self.shell(options.pop("variables", {}))
        return run(*command, cwd=self.folder, env=shell, **options)

    def start(
        self, *command: str, variables: dict[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """The same, in the background."""
        shell = self.shell(variables or {})
        return subprocess.Popen(command, cwd=self.folder, env=shell, **options)

    def try_compose(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.try_run("docker", "compose", *arguments, **options)

    def compose(self, *arguments: str, **options: Any) -> str:
        done = self.try_compose(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def execute(self, service: str, *command: str, **options: Any) -> str:
        return self.compose("exec", "-T", service, *command, **options)

    def shell_code(self, code: str) -> str:
        """What `code` prints in Django's shell."""
        return self.execute("web", "python", "manage.py", "shell", "-v", "0", "-c", code)

    @contextmanager
    def running(self, failed: Callable[[], bool]) -> Iterator["Stack"]:
        """Takes everything down at the end; prints the logs first when anything went wrong."""
        try:
            yield self
        except BaseException:
            self.print_logs()
            raise
        else:
            if failed():
                self.print_logs()
        finally:
            self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
            if not self.image:
                format_ = "{{.Repository}}:{{.Tag}}"
                made = run("docker", "image", "ls", "--format", format_, self.name)
                if images := made.stdout.split():
                    removed = run("docker", "image", "rm", *images)
                    assert removed.returncode == 0, removed.stderr

    def print_logs(self) -> None:
        print(self.try_compose("ps", "--all").stdout)
        print(self.try_compose("logs", "--no-color", "--tail", "60").stdout)

    def containers(self) -> dict[str, dict[str, Any]]:
        """`docker inspect` of each service's container."""
        ids = self.compose("ps", "--all", "--quiet").split()
        inspected = json.loads(run("docker", "inspect", *ids).stdout)
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in inspected}

    def ids(self) -> dict[str, str]:
        """Each service's container, but for `migrate`, which runs anew."""
        found = {service: container["Id"] for service, container in self.containers().items()}
        del found["migrate"]
        return found

    def assert_settled(self) -> None:
        """The next `up` agrees with what runs."""
        before = self.ids()
        self.compose("up", "--detach", "--wait")
        assert self.ids() == before

    def unconfined(self) -> dict[str, list[str]]:
        """By service, what its container may do that it need not."""

        def faults(container: dict[str, Any]) -> Iterator[str]:
            host = container["HostConfig"]
            if container["Config"]["User"] in ("", "root", "0"):
                yield "runs as root"
            if not host["ReadonlyRootfs"]:
                yield "writes to its root"
            if host["CapDrop"] != ["ALL"] or host["CapAdd"] or host["Privileged"]:
                yield "has capabilities"
            if "no-new-privileges:true" not in (host["SecurityOpt"] or []):
                yield "may gain privileges"
            if not 0 < (host["PidsLimit"] or 0) <= 1000:
                yield "starts any number of processes"
            if "host" in (host["NetworkMode"], host["PidMode"], host["IpcMode"]):
                yield "shares the host's namespaces"
            if any(mount["Source"].endswith("docker.sock") for mount in container["Mounts"]):
                yield "reaches Docker"

        found = {name: list(faults(item)) for name, item in self.containers().items()}
        return {name: listed for name, listed in found.items() if listed}

    def states(self) -> dict[str, str]:
        """Each service's health, or the exit code of what ended."""
        states = {}
        for service, container in self.containers().items():
            state = container["State"]
            health = state.get("Health", {}).get("Status", "no health check")
            states[service] = health if state["Running"] else f"exit {state['ExitCode']}"
        return states

    def http(
        self,
        path: str,
        *,
        port: str = "HOST_PORT_WEB",
        login: str | None = None,
        token: str | None = None,
    ) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}")
        # As a proxy that speaks HTTPS says; production sends everybody else there.
        request.add_header("X-Forwarded-Proto", "https")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        if login is not None:
            request.add_header(
                "Authorization", f"Basic {base64.b64encode(login.encode()).decode()}"
            )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    # --- The task history ---

    def make_staff(self) -> None:
        """The user `staff`, whose token `execution` uses."""
        self.token = self.shell_code("""
from django.contrib.auth.models import User
from rest_framework_simplejwt.tokens import AccessToken

user = User.objects.create_user("staff", is_staff=True)
token = AccessToken.for_user(user)
token.set_exp(lifetime=__import__("datetime").timedelta(hours=1))
print(token)
""").strip()

    def execution(self, task_id: str) -> dict[str, Any]:
        """The task in the list of the API; empty when it is not there."""
        status, body = self.http("/api/tasks/executions/?page_size=100", token=self.token)
        assert status == 200, body
        tasks = {task["task_id"]: task for task in json.loads(body)["results"]}
        found: dict[str, Any] = tasks.get(task_id, {})
        return found

    def wait_for_ends(self, task_ids: list[str], *, seconds: float) -> None:
        """Until each of these tasks has one row, and it says what the result backend says."""

        def told() -> bool:
            printed = self.shell_code(f"""
from marketplace.celery import app
from task_manager.models import FINISHED, TaskExecution

rows = dict(TaskExecution.objects.values_list("task_id", "status"))
ids = {task_ids!r}
print(all(rows.get(id) in FINISHED and rows[id] == app.AsyncResult(id).state for id in ids))
""")
            return printed.strip() == "True"

        wait_until(told, seconds=seconds, what=f"{len(task_ids)} tasks have ended")

    def make_template(self, task: str) -> str:
        """A template of this task, for the staff to run; its name."""
        return self.shell_code(f"""
from task_manager.models import TaskTemplate

print(TaskTemplate.objects.create(name="of-the-test", task_name={task!r}, module="tests").name)
""").strip()

    def templates(self) -> list[str]:
        printed = self.shell_code("""
import json
from task_manager.models import TaskTemplate

print(json.dumps(list(TaskTemplate.objects.order_by("name").values_list("name", flat=True))))
""")
        names: list[str] = json.loads(printed)
        return names

    def visitors(self, template: str = "") -> Visitors:
        """As members of the staff; `make_staff` comes first."""
        cookie = self.shell_code("""
from django.contrib.auth.models import User
from django.test import Client

client = Client()
client.force_login(User.objects.get(username="staff"))
print(*(f"{cookie.key}={cookie.value}" for cookie in client.cookies.values()), sep="; ")
""").strip()
        port = int(self.ports["HOST_PORT_WEB"])
        return Visitors(port, self.token, cookie, proxied=True, template=template)

    @contextmanager
    def followed(self, service: str) -> Iterator[Callable[[], str]]:
        """What the service's containers log, also those that come and go meanwhile."""
        with tempfile.NamedTemporaryFile() as file:
            command = ("docker", "compose", "logs", "--follow", "--no-color", service)
            with self.start(*command, stdout=file) as logs:
                try:
                    yield Path(file.name).read_text
                finally:
                    logs.terminate()

    # --- Releases ---

    def build(self, name: str, edits: Edits, files: Mapping[str, str] | None = None) -> str:
        """An image of the source with some edits, and new files; its name."""
        image = f"{self.name}:{name}"
        with self.edited(edits, files):
            self.compose("build", "--quiet", "migrate", variables={"APP_IMAGE": image})
        return image

    def ops(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of the runbook's commands, as on a host whose .env names the image."""
        settings = SettingsFile(self.folder / ".env")
        if "APP_IMAGE" not in settings.read():
            settings.write(APP_IMAGE=self.variables.get("APP_IMAGE") or self.name)
        shell = self.shell({})
        del shell["APP_IMAGE"]
        done = run(f"scripts/{command}", *arguments, cwd=self.folder, env=shell)
        # For compose commands of the tests' own.
        self.variables["APP_IMAGE"] = settings.read()["APP_IMAGE"]
        return done

    @contextmanager
    def edited(self, edits: Edits, files: Mapping[str, str] | None = None) -> Iterator[None]:
        """The source with some edits, and new files, for as long as it lasts."""
        texts = {file: (self.folder / file).read_text() for file in edits}
        try:
            for file, (old, new) in edits.items():
                assert old in texts[file], file
                (self.folder / file).write_text(texts[file].replace(old, new, 1))
            for file, text in (files or {}).items():
                (self.folder / file).write_text(text)
            yield
        finally:
            for file, text in texts.items():
                (self.folder / file).write_text(text)
            for file in files or {}:
                (self.folder / file).unlink()

    # --- The marketplace ---

    def open_promo(self, name: str) -> None:
        """Make a store, one shopper beside it and a promo whose window has just begun."""
        self.shell_code(open_promo_code(name))

    def promo_state(self, name: str) -> str:
        """`SCHEDULED`, or `ACTIVE DELIVERED`."""
        return self.shell_code(promo_state_code(name)).strip()

    def wait_for_delivery(self, name: str, *, seconds: float) -> None:
        wait_until(
            lambda: self.promo_state(name) == "ACTIVE DELIVERED",
            seconds=seconds,
            what=f"the promo {name} open and its notification delivered",
        )

    def stop_worker_within_a_task(self) -> str:
        """Stop the worker while a task of some seconds runs; return what became of the task."""
        task = self.shell_code("""
import time
from promotions.tasks import process_notification_queue

result = process_notification_queue.delay()
deadline = time.monotonic() + 60
while result.state != "STARTED" and time.monotonic() < deadline:
    time.sleep(0.05)
print(result.id, result.state)
""").split()
        assert task[1] == "STARTED", task
        self.compose("stop", "worker")
        return self.shell_code(
            f"from marketplace.celery import app; print(app.AsyncResult({task[0]!r}).state)"
        ).strip()


def assert_ran_once(task_ids: list[str], log: Callable[[], str]) -> None:
    """By the log of their workers."""

    def ends() -> list[int]:
        text = log()
        return [text.count(f"[{id}] succeeded in ") for id in task_ids]

    wait_until(lambda: 0 not in ends(), seconds=30, what="each task has succeeded")
    assert set(ends()) == {1}


#: What stands in production's .env beside the secrets.
AWS = """
AWS_ENDPOINT_URL=http://aws:4566
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
CHECK_ACTIVE_PROMOS_SECONDS=5
PROCESS_NOTIFICATION_QUEUE_SECONDS=5
"""


@contextmanager
def production(folder: Path, failed: Callable[[], bool], environment: str = "") -> Iterator[Stack]:
    """The production pair with scripts/init-env's secrets, and LocalStack in the place of AWS."""
    stack = Stack(copy_project(folder), PRODUCTION)
    # As a clone made under a strict umask has it.
    run("chmod", "-R", "go-rwx", "compose", cwd=stack.folder)
    written = run("scripts/init-env", cwd=stack.folder)
    assert written.returncode == 0, written.stderr
    with (stack.folder / ".env").open("a") as file:
        file.write(AWS + environment)
    with stack.running(failed), _aws(stack):
        provision = ("python", "promotions/clients/provision.py")
        stack.compose("run", "--rm", "--no-deps", "-T", "worker", *provision)
        stack.compose("up", "--detach", "--wait")
        yield stack


@contextmanager
def _aws(stack: Stack) -> Iterator[None]:
    name = f"{stack.name}-aws"
    try:
        options = ("--detach", "--env", "SERVICES=sns,sqs", "--name", name)
        assert run("docker", "run", *options, AWS_IMAGE).returncode == 0
        stack.compose("create", "--build")
        run("docker", "network", "connect", "--alias", "aws", f"{stack.name}_default", name)
        ready = ("docker", "exec", name, "curl", "-sf", "localhost:4566/_localstack/init/ready")
        wait_until(
            lambda: '"completed": true' in run(*ready).stdout,
            seconds=120,
            what="LocalStack in the place of AWS",
        )
        yield
    finally:
        run("docker", "rm", "--force", "--volumes", name)
