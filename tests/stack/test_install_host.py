"""scripts/install-host on bare hosts, with each manager: from nothing to several and back."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.stack.bare_host import CLONE, CURRENT, ENVIRONMENT, BareHost, Network, network
from tests.stack.stack import open_promo_code, promo_state_code, run, wait_until

UNITS = {
    "web": "marketplace-web",
    "worker": "marketplace-worker@high_priority:default:low_priority",
    "beat": "marketplace-beat",
    "flower": "marketplace-flower",
}
#: Each run leaves a line on its host.
PROBE = """
import time

from celery import shared_task

@shared_task(bind=True)
def rest(self, seconds):
    with open("/var/lib/flash-promos/runs", "a") as file:
        print(self.request.id, file=file)
    time.sleep(seconds)
"""
MADE_READY = "/root/my.env"
#: All that an installation may write; of large files their size and time.
LISTING = """
find /etc /opt /usr/local /var/lib/flash-promos /var/log/flash-promos \\
    -path '*/__pycache__' -prune -o -path '*/.venv/*' -prune -o ! -name '*.log*' ! -name runs \\
    -printf '%p %u:%g %m %s %T@ %l\\n' | sort
find /etc /usr/local /opt -path '*/.venv/*' -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
getent passwd; systemctl list-unit-files --no-pager
"""


@dataclass
class Installed:
    """A host, and who manages its programs."""

    manager: str
    host: BareHost

    def install(self, *arguments: str) -> str:
        return self.host.install(self.manager, *arguments)

    def refusal(self, *arguments: str, **options: str) -> str:
        code, output = self.host.script("install-host", self.manager, *arguments, **options)
        assert code == 1, output
        return output.strip().removeprefix("error: ")

    def command(self, *words: str) -> str:
        """What `flash-promos …` says, which ends well."""
        return self.host.run("flash-promos", *words)

    def secrets(self) -> dict[str, str]:
        text = self.host.run("cat", "/etc/flash-promos/env")
        names = "POSTGRES_PASSWORD|REDIS_PASSWORD|FLOWER_BASIC_AUTH|DJANGO_SECRET_KEY"
        return dict(re.findall(rf"(?m)^({names})=(.*)$", text))

    def listing(self) -> str:
        return self.host.try_run("sh", "-c", LISTING)[1]

    def pid(self, program: str) -> str:
        """Of the main process; 0 when there is none."""
        if self.manager == "systemd":
            show = ("systemctl", "show", "--value", "--property", "MainPID", UNITS[program])
            return self.host.run(*show).strip()
        found = self.supervisorctl("pid", program)
        return found if found.isdigit() else "0"

    def supervisorctl(self, *arguments: str) -> str:
        ctl = (f"{CURRENT}/.venv/bin/supervisorctl", "-s")
        socket = "unix:///run/flash-promos/supervisor.sock"
        return self.host.try_run(*ctl, socket, *arguments)[1].strip()

    def control(self, action: str, program: str) -> None:
        if self.manager == "systemd":
            self.host.run("systemctl", action, UNITS[program])
        else:
            self.supervisorctl(action, program)

    def pids(self) -> dict[str, str]:
        servers = {
            unit: self.host.run("systemctl", "show", "--value", "--property", "MainPID", unit)
            for unit in ("postgresql@17-main", "redis-server")
        }
        return {program: self.pid(program) for program in UNITS} | servers

    def runs_again(self, program: str, former: str) -> bool:
        return self.pid(program) not in ("0", former)

    def deliver(self, name: str) -> None:
        """A promo opens, and its shopper is told."""
        self.host.python(open_promo_code(name))
        wait_until(
            lambda: "ACTIVE DELIVERED" in self.host.python(promo_state_code(name)),
            seconds=90,
            what=f"the promo {name} open and its notification delivered",
        )

    # --- Tasks ---

    def publish(self, seconds: int, count: int) -> list[str]:
        printed = self.host.python(
            f"from probe import rest\nprint(*(rest.delay({seconds}).id for _ in range({count})))"
        )
        return re.findall(r"[0-9a-f-]{36}", printed)

    def runs(self) -> set[str]:
        return set(self.host.try_run("cat", "/var/lib/flash-promos/runs")[1].split())

    def query(self, sql: str) -> str:
        psql = ("psql", "-qAtX", "marketplace", "-c", sql)
        return self.host.run("runuser", "-u", "postgres", "--", *psql, folder="/").strip()

    def succeeded(self, task_ids: list[str]) -> int:
        names = ",".join(f"'{task_id}'" for task_id in task_ids)
        return int(
            self.query(
                "SELECT count(*) FROM task_manager_taskexecution "
                f"WHERE status = 'SUCCESS' AND task_id IN ({names})"
            )
        )

    def ticks(self) -> int:
        name = "promotions.tasks.check_active_promos"
        where = f"WHERE task_name = '{name}'"
        return int(self.query(f"SELECT count(*) FROM task_manager_taskexecution {where}"))


@pytest.fixture(scope="module", params=["systemd", "supervisor"])
def place(
    request: pytest.FixtureRequest, failed: Callable[[], bool]
) -> Iterator[tuple[str, Network]]:
    """The manager to install, and a network with AWS."""
    with network(failed) as made:
        made.add_aws()
        yield request.param, made


@pytest.fixture(scope="module")
def bare(place: tuple[str, Network]) -> Installed:
    """A host on which nothing is installed at first."""
    manager, network = place
    host = network.add_host("first")
    host.write(f"{CLONE}/probe.py", PROBE)
    secrets = host.run(f"{CLONE}/scripts/init-env", "--print")
    host.write(MADE_READY, f"{secrets}{ENVIRONMENT}CELERY_IMPORTS=probe\n")
    wait_until(
        lambda: host.try_run("pg_isready", "-q")[0] == 0, seconds=60, what="PostgreSQL answers"
    )
    return Installed(manager, host)


@pytest.fixture(scope="module")
def installed(bare: Installed, place: tuple[str, Network]) -> Installed:
    bare.install("--env", MADE_READY, "--share", place[1].addresses)
    place[1].wait_for_aws()
    provision = (".venv/bin/python", "promotions/clients/provision.py")
    bare.host.run("env", *ENVIRONMENT.split(), *provision, folder=CURRENT)
    return bare


# --- Before anything is installed ----------------------------------------------------------------
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(bare: Installed) -> None:
    before = bare.listing()
    said = bare.install("--dry-run")
    assert re.search(
        r"would make the user flash-promos\n(would .*\n){12,}nothing was changed", said
    )
    assert bare.listing() == before


def test_what_is_wrong_is_said_before_anything_is_changed(bare: Installed) -> None:
    before = bare.listing()
    bare.host.run("chmod", "-R", "go+rX", "/root")
    assert "use sudo" in bare.refusal(user="nobody")
    bare.host.run("chmod", "go-rx", "/root")

    listen = "import socket; s = socket.create_server(('127.0.0.1', 8000)); s.accept()"
    bare.host.run("systemd-run", "--unit=other", "python3", "-c", listen)
    wait_until(lambda: "127.0.0.1:8000" in bare.host.run("ss", "-ltn"), seconds=30, what="taken")
    assert "port 8000 on 127.0.0.1 cannot be had: Address already in use" in bare.refusal()
    bare.host.run("systemctl", "stop", "other")

    text = bare.host.run("cat", MADE_READY)
    wrong = {
        "POSTGRES_PASSWORD=.*": ("POSTGRES_PASSWORD=", "POSTGRES_PASSWORD is not set"),
        "DJANGO_HTTPS=0": ("DJANGO_DEBUG=1", "DJANGO_DEBUG is on"),
        "#POSTGRES_HOST=.*": (
            "POSTGRES_HOST=nowhere.invalid",
            "PostgreSQL at nowhere.invalid:5432",
        ),
        "#REDIS_PORT=.*": ("REDIS_HOST=aws\nREDIS_PORT=6378", "no Redis answers at aws:6378"),
        "#WEB_BIND=.*": ("WEB_BIND=8000", "WEB_BIND=8000"),
    }
    for pattern, (line, reason) in wrong.items():
        bare.host.write("/root/wrong.env", re.sub(f"(?m)^{pattern}$", line, text))
        assert reason in bare.refusal("--env", "/root/wrong.env")
    assert "copy /etc/flash-promos/env from there" in bare.refusal("--role", "worker")
    without = ("env", "PYTHON=/nowhere", f"{CLONE}/scripts/install-host", bare.manager)
    assert "PYTHON=/nowhere is no Python that runs" in bare.host.try_run(*without)[1]
    assert bare.listing() == before


# --- Installed -----------------------------------------------------------------------------------
def test_from_nothing_to_a_promo_that_opens_and_is_delivered(installed: Installed) -> None:
    assert installed.host.is_ready()
    installed.deliver("first")
    mode = installed.host.run("stat", "--format", "%U:%G %a", "/etc/flash-promos/env")
    assert mode == "root:flash-promos 640\n"
    assert installed.host.run("cat", "/etc/flash-promos/manager") == f"{installed.manager}\n"
    assert "install-host" in installed.host.run("flash-promos", "--help")


def test_a_backup_is_made_and_tried_after_which_all_is_well(installed: Installed) -> None:
    installed.command("backup")
    tried = installed.command("restore", "latest", "--into", "rehearsal", "--drop")
    assert re.search(r"^All \d+ rows are there$", tried, re.MULTILINE)
    databases = installed.query("SELECT datname FROM pg_database")
    assert set(databases.split()) == {"marketplace", "postgres", "template0", "template1"}
    wait_until(
        lambda: installed.host.try_run("flash-promos", "status")[0] == 0,
        seconds=60,
        what="status says that all is well",
    )
    assert "All is well." in installed.command("status")
    examined = installed.command("doctor")
    assert "✗" not in examined, examined
    assert "not known" not in examined, examined
    listed = installed.command("queues", "list")
    assert re.findall(r"(?m)^(?:default|high_priority|low_priority) .*@first$", listed), listed


def test_workers_come_and_go_by_scale_and_drain(installed: Installed) -> None:
    assert "after:  2 (" in installed.command("scale", "worker", "2")
    assert "after:  1 (" in installed.command("scale", "worker", "1")
    assert "drained: " in installed.command("drain", "worker", "--yes")
    assert installed.pid("worker") == "0"
    assert "after:  1 (" in installed.command("scale", "worker", "1")
    assert installed.pid("worker") != "0"


def test_new_secrets_are_everywhere_and_the_old_ones_let_nobody_in(installed: Installed) -> None:
    before = installed.secrets()
    installed.command("rotate-secrets", "--yes")
    after = installed.secrets()
    assert not set(before.values()) & set(after.values())
    login = ("redis-cli", "--no-auth-warning", "--user", "marketplace", "--pass")
    assert "PONG" in installed.host.try_run(*login, after["REDIS_PASSWORD"], "ping")[1]
    assert "WRONGPASS" in installed.host.try_run(*login, before["REDIS_PASSWORD"], "ping")[1]
    assert installed.host.is_ready()
    installed.deliver("with new secrets")


def test_a_second_run_finds_nothing_to_do(installed: Installed) -> None:
    listing, pids = installed.listing(), installed.pids()
    assert installed.install() == "nothing to do: this host is as it should be\n"
    assert installed.install("--dry-run") == "nothing to do: this host is as it should be\n"
    from_the_release = installed.host.run("flash-promos", "install-host", installed.manager)
    assert from_the_release == "nothing to do: this host is as it should be\n"
    assert (installed.listing(), installed.pids()) == (listing, pids)


def test_another_release_or_another_manager_is_refused(installed: Installed) -> None:
    installed.host.write(f"{CLONE}/docs/new.md", "of a newer release")
    assert f"{CLONE}/scripts/upgrade brings it" in installed.refusal()
    installed.host.run("rm", f"{CLONE}/docs/new.md")
    other = "supervisor" if installed.manager == "systemd" else "systemd"
    assert "uninstall first" in Installed(other, installed.host).refusal()


def test_each_program_that_is_killed_comes_back(installed: Installed) -> None:
    before = {program: installed.pid(program) for program in UNITS}
    installed.host.run("kill", "-KILL", *before.values())
    for program, pid in before.items():
        wait_until(
            lambda program=program, pid=pid: installed.runs_again(program, pid),  # type: ignore[misc]
            seconds=90,
            what=f"{program} runs again",
        )
    wait_until(installed.host.is_ready, seconds=90, what="the web is ready again")


def test_all_is_back_after_a_reboot(installed: Installed) -> None:
    installed.host.reboot()
    wait_until(installed.host.is_ready, seconds=180, what="the web is ready")
    installed.deliver("after the reboot")


# --- Several hosts -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def second(installed: Installed, place: tuple[str, Network]) -> Installed:
    """A host with workers and a beat in reserve, which has nothing of its own to work on."""
    host = place[1].add_host("second", prepared=True)
    host.run("systemctl", "disable", "--now", "postgresql", "redis-server")
    host.write(f"{CLONE}/probe.py", PROBE)
    text = installed.host.run("cat", "/etc/flash-promos/env")
    made = Installed(installed.manager, host)
    worker = ("--role", "worker", "--beat", "--env", MADE_READY)
    host.write(MADE_READY, f"{text}POSTGRES_HOST=first\nREDIS_HOST=first\nREDIS_PASSWORD=wrong\n")
    assert "Redis at first:6379" in (said := made.refusal(*worker))
    assert "WRONGPASS" in said
    host.write(MADE_READY, f"{text}POSTGRES_HOST=first\nREDIS_HOST=first\nPOSTGRES_PASSWORD=no\n")
    assert 'password authentication failed for user "marketplace"' in made.refusal(*worker)
    host.write(MADE_READY, f"{text}POSTGRES_HOST=first\nREDIS_HOST=first\n")
    made.install(*worker)
    assert made.install() == "nothing to do: this host is as it should be\n"
    assert (made.pid("web"), made.pid("flower")) == ("0", "0")
    return made


def test_two_beats_tick_once_and_the_second_takes_over(
    installed: Installed, second: Installed
) -> None:
    assert second.pid("beat") != "0"
    start = installed.query("SELECT now()")
    before = installed.ticks()
    wait_until(lambda: installed.ticks() >= before + 4, seconds=120, what="four ticks")
    gaps = f"""
SELECT count(*) FROM (
    SELECT created_at - lag(created_at) OVER (ORDER BY created_at) AS gap
    FROM task_manager_taskexecution
    WHERE task_name = 'promotions.tasks.check_active_promos' AND created_at >= '{start}'
) AS tick WHERE gap < interval '1 second'
"""
    assert installed.query(gaps) == "0"
    installed.control("stop", "beat")
    before = installed.ticks()
    wait_until(lambda: installed.ticks() > before + 1, seconds=120, what="the other ticks")
    installed.control("start", "beat")


def test_a_worker_host_that_is_lost_loses_nothing(installed: Installed, second: Installed) -> None:
    task_ids = installed.publish(4, 24)
    wait_until(lambda: second.runs() & set(task_ids), seconds=60, what="it has some of them")
    assert run("docker", "kill", second.host.name).returncode == 0
    wait_until(
        lambda: installed.succeeded(task_ids) == len(task_ids),
        seconds=240,
        what="all tasks are done",
    )


# --- Uninstalling --------------------------------------------------------------------------------
def test_uninstalling_keeps_the_data_which_the_next_installation_finds(
    installed: Installed,
) -> None:
    assert "would remove /opt/flash-promos\n" in installed.host.install("uninstall", "--dry-run")
    said = installed.host.install("uninstall")
    assert "the data stays" in said
    assert not installed.host.is_ready()
    assert installed.host.try_run("test", "-e", "/opt/flash-promos")[0] == 1
    assert "not installed" in installed.host.install("uninstall")
    installed.install()
    assert "ACTIVE DELIVERED" in installed.host.python(promo_state_code("first"))


def test_uninstalling_with_the_data_asks_and_leaves_nothing(installed: Installed) -> None:
    code, said = installed.host.script("install-host", "uninstall", "--delete-data", input="n\n")
    assert (code, "drop the database marketplace" in said) == (1, True)
    assert installed.host.is_ready()
    installed.host.install("uninstall", "--delete-data", "--yes")
    left = installed.host.try_run("sh", "-c", "ls -d /*/flash-promos* /*/*/flash-promos*")[1]
    assert [line for line in left.splitlines() if line.startswith("/")] == [CLONE]
    assert installed.host.try_run("id", "flash-promos")[0] == 1
    databases = ("psql", "-qAtX", "-c", "SELECT datname FROM pg_database")
    assert "marketplace" not in installed.host.run("runuser", "-u", "postgres", "--", *databases)
    assert installed.host.run("redis-cli", "dbsize") == "0\n"
