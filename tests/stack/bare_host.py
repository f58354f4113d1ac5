"""Bare hosts: containers with systemd as process 1, to install on; their network, and AWS on it."""

import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.stack.stack import AWS_IMAGE, PROJECT, copy_project, run, wait_until

IMAGE_NAME = "flash-promos-test-bare-host"
#: A Debian with its own PostgreSQL and Redis, and the wheels at hand; and one on which the Python
#: environment of a former installation is left.
IMAGE = """
FROM bare-host:trixie AS bare
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends postgresql redis-server python3-venv \\
 && apt-get clean
COPY requirements /tmp/clone/requirements
RUN --mount=type=cache,target=/root/.cache/pip \\
    python3 -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes \\
        --only-binary :all: --requirement /tmp/clone/requirements/base.txt \\
        --dest /var/cache/wheels \\
 && printf '[global]\\nno-index = true\\nfind-links = /var/cache/wheels\\n' > /etc/pip.conf

FROM bare AS prepared
COPY scripts /tmp/clone/scripts
RUN sum=$(sha256sum /tmp/clone/requirements/base.txt) \\
 && export VENV=/opt/flash-promos/venvs/$(echo "$sum" | cut -c1-8) \\
 && bash -euo pipefail -c 'source /tmp/clone/scripts/lib/python.sh; ensure_venv base' \\
 && { $VENV/bin/python -m compileall -q -j 0 $VENV || true; }
"""
#: The latter: something of the distribution does not work in a container.
RUNNING = ("running", "degraded")
CLONE = "/root/flash-promos"
CURRENT = "/opt/flash-promos/current"
#: What a host's environment file has beside the secrets, with AWS on the network.
ENVIRONMENT = """
DJANGO_HTTPS=0
AWS_ENDPOINT_URL=http://aws:4566
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
CHECK_ACTIVE_PROMOS_SECONDS=5
PROCESS_NOTIFICATION_QUEUE_SECONDS=5
CELERY_WORKER_CONCURRENCY=2
"""


@dataclass
class BareHost:
    name: str

    def try_run(
        self, *command: str, user: str = "root", folder: str = "/", input: str | None = None
    ) -> tuple[int, str]:
        options = ("--interactive", "--user", user, "--workdir", folder)
        done = run("docker", "exec", *options, self.name, *command, input=input or "")
        return done.returncode, done.stdout + done.stderr

    def run(self, *command: str, **options: str) -> str:
        code, output = self.try_run(*command, **options)
        assert code == 0, f"{shlex.join(command)}: {output}"
        return output

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "write", path, input=text)

    def copy_clone(self, clone: str = CLONE) -> None:
        """The files of this project, as a clone of root's."""
        with TemporaryDirectory() as folder:
            copy_project(Path(folder))
            copied = run("docker", "cp", f"{folder}/.", f"{self.name}:{clone}")
            assert copied.returncode == 0, copied.stderr

    def script(self, name: str, *arguments: str, **options: str) -> tuple[int, str]:
        """A command of the clone's."""
        return self.try_run(f"{CLONE}/scripts/{name}", *arguments, **options)

    def install(self, *arguments: str) -> str:
        return self.run(f"{CLONE}/scripts/install-host", *arguments)

    def manage(self, *arguments: str) -> str:
        """What `manage.py` prints, as the programs' user and with their variables."""
        python = f"{CURRENT}/.venv/bin/python"
        command = ("env", "ENV_FILE=/etc/flash-promos/env", python, "manage.py", *arguments)
        return self.run(*command, user="flash-promos", folder=CURRENT)

    def python(self, code: str) -> str:
        """What `code` prints in Django's shell."""
        return self.manage("shell", "-v", "0", "-c", code)

    def is_up(self) -> bool:
        return self.try_run("systemctl", "is-system-running")[1].strip() in RUNNING

    def reboot(self) -> None:
        assert run("docker", "restart", "--time", "120", self.name).returncode == 0
        wait_until(self.is_up, seconds=240, what="the host is up again")

    def is_ready(self) -> bool:
        answer = self.try_run("curl", "--silent", "--fail", "http://127.0.0.1:8000/readyz")
        return answer[0] == 0

    def addresses(self) -> list[str]:
        return re.findall(r"inet (\d+\.\d+\.\d+\.\d+)/", self.run("ip", "-4", "addr"))


@dataclass
class Network:
    """Where bare hosts reach each other by their names, and AWS as `aws`."""

    name: str = field(default_factory=lambda: f"flash-promos-test-{secrets.token_hex(4)}")
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def addresses(self) -> str:
        """As 172.18.0.0/16."""
        format_ = "{{(index .IPAM.Config 0).Subnet}}"
        return run("docker", "network", "inspect", "--format", format_, self.name).stdout.strip()

    def add_host(self, name: str, *, prepared: bool = False) -> BareHost:
        """A Debian that has just been set up, with a clone of this project; `prepared`: to install
        on quickly, as it has the Python packages."""
        image = build_image("prepared" if prepared else "bare")
        host = BareHost(f"{self.name}-{name}")
        options = ("--privileged", "--cgroupns=host", "--tmpfs", "/run", "--tmpfs", "/tmp")  # noqa: S108
        cgroup = ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw")
        network = ("--network", self.name, "--network-alias", name, "--hostname", name)
        self.stack.callback(run, "docker", "rm", "--force", "--volumes", host.name)
        started = run(
            *("docker", "run", "--detach", "--name", host.name),
            *(*options, *cgroup, *network, image),
        )
        assert started.returncode == 0, started.stderr
        wait_until(host.is_up, seconds=120, what="systemd runs")
        host.copy_clone()
        return host

    def add_aws(self) -> None:
        """LocalStack; `wait_for_aws` waits until it answers."""
        name = f"{self.name}-aws"
        self.stack.callback(run, "docker", "rm", "--force", "--volumes", name)
        options = ("--detach", "--env", "SERVICES=sns,sqs", "--name", name)
        network = ("--network", self.name, "--network-alias", "aws")
        started = run("docker", "run", *options, *network, AWS_IMAGE)
        assert started.returncode == 0, started.stderr

    def wait_for_aws(self) -> None:
        url = "localhost:4566/_localstack/init/ready"
        ready = ("docker", "exec", f"{self.name}-aws", "curl", "-sf", url)
        wait_until(
            lambda: '"completed": true' in run(*ready).stdout,
            seconds=120,
            what="LocalStack in the place of AWS",
        )


@cache
def build_image(target: str) -> str:
    image = f"{IMAGE_NAME}:{target}"
    with TemporaryDirectory() as folder:
        shutil.copytree(PROJECT / "scripts" / "lib", Path(folder, "scripts", "lib"))
        Path(folder, "requirements").mkdir()
        shutil.copy(PROJECT / "requirements" / "base.txt", Path(folder, "requirements"))
        Path(folder, "Dockerfile").write_text(IMAGE)
        built = run("docker", "build", "--target", target, "--tag", image, folder)
    assert built.returncode == 0, built.stderr
    return image


@contextmanager
def network(failed: Callable[[], bool] = lambda: False) -> Iterator[Network]:
    """Removed at the end with all that is on it; the hosts' logs are printed when a test failed."""
    made = Network()
    assert run("docker", "network", "create", made.name).returncode == 0
    with made.stack:
        made.stack.callback(run, "docker", "network", "rm", made.name)
        try:
            yield made
        finally:
            if failed():
                print_logs(made)


def print_logs(network: Network) -> None:
    listed = run("docker", "ps", "--quiet", "--filter", f"network={network.name}").stdout
    for container in listed.split():
        journal = ("journalctl", "--no-pager", "--lines", "80", "--unit", "marketplace*")
        print(run("docker", "exec", container, *journal).stdout)
