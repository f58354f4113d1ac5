"""What scripts/install-host is made of; the whole of it is tried in tests/stack/."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.conf import settings

from deploy.ops.deployment import PROGRAMS, PROJECT
from deploy.ops.errors import OpsError
from deploy.ops.installing import programs, servers
from deploy.ops.installing.servers import LocalRedis, redis_fault
from deploy.ops.installing.settings import Planned, Server, Settings
from deploy.ops.installing.steps import File, Step, carry_out


@dataclass
class Mark(Step):
    name: str
    done: list[str] = field(default_factory=list)
    fault: str = ""

    def describe(self) -> str:
        return f"make {self.name}"

    def is_done(self) -> bool:
        return self.name in self.done

    def check(self) -> None:
        if self.fault:
            raise OpsError(self.fault)

    def do(self) -> None:
        self.done.append(self.name)


# --- Steps ---------------------------------------------------------------------------------------
def test_what_is_done_is_not_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    done = ["a"]
    steps = [Mark("a", done), Mark("b", done)]
    assert carry_out(steps, dry_run=True) == 1
    assert (capsys.readouterr().out, done) == ("would make b\n", ["a"])
    assert carry_out(steps, dry_run=False) == 1
    assert done == ["a", "b"]
    assert carry_out(steps, dry_run=False) == 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_all_is_checked_before_anything_is_done(dry_run: bool) -> None:
    first = Mark("a")
    with pytest.raises(OpsError, match="no room"):
        carry_out([first, Mark("b", fault="no room")], dry_run=dry_run)
    assert first.done == []


def test_a_file_is_written_once_and_again_when_somebody_changed_it(tmp_path: Path) -> None:
    user = "root" if os.geteuid() == 0 else None
    if user is None:
        pytest.skip("owners are root's to give")
    step = File(tmp_path / "file", "text\n", 0o640)
    assert not step.is_done()
    step.do()
    assert step.is_done()
    assert (step.path.stat().st_mode & 0o777, [*tmp_path.iterdir()]) == (0o640, [step.path])
    step.path.chmod(0o644)
    assert not step.is_done()
    step.do()
    step.path.write_text("another")
    assert not step.is_done()


# --- The environment file ------------------------------------------------------------------------
def planned(text: str) -> Settings:
    return Settings(Planned(Path("/etc/flash-promos/env"), text))


def test_fresh_settings_are_complete_and_a_secret_that_lacks_is_named() -> None:
    fresh = Settings.plan(None, may_be_fresh=True)
    fresh.check()
    assert (fresh.web, fresh.flower) == (("127.0.0.1", 8000), ("127.0.0.1", 5555))
    assert fresh.postgres.is_local
    text = fresh.file._text().replace("REDIS_PASSWORD=", "#REDIS_PASSWORD=")
    with pytest.raises(OpsError, match="REDIS_PASSWORD is not set in /etc/flash-promos/env"):
        planned(text).check()
    with pytest.raises(OpsError, match="copy /etc/flash-promos/env from there"):
        Settings.plan(None, may_be_fresh=False)


def test_an_address_without_a_port_is_refused() -> None:
    assert planned("WEB_BIND=[::1]:9000\n").web == ("::1", 9000)
    with pytest.raises(OpsError, match=r"WEB_BIND=9000 in .*expected an address and a port"):
        _ = planned("WEB_BIND=9000\n").web


# --- Redis ---------------------------------------------------------------------------------------
def server(**other: object) -> Server:
    values = {
        "prefix": "REDIS",
        "host": settings.REDIS_HOST,
        "port": settings.REDIS_PORT,
        "user": settings.REDIS_USER,
        "password": settings.REDIS_PASSWORD,
    }
    return Server(**(values | other))  # type: ignore[arg-type]


def test_what_redis_refuses_is_said_with_the_variables_to_mend() -> None:
    assert redis_fault(server()) == ""
    refused = redis_fault(server(password="wrong"))
    assert "(REDIS_HOST, REDIS_PORT in /etc/flash-promos/env)" in refused
    assert "(REDIS_USER, REDIS_PASSWORD): Redis answers: WRONGPASS" in refused
    assert "no Redis answers at" in redis_fault(server(port=1))


def test_debian_12s_redis_gets_the_rules_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "operator").write_text("secret\n")
    monkeypatch.setattr(servers, "REDIS_OPERATOR", tmp_path / "operator")
    step = LocalRedis(server(password="secret"), "256mb", is_shared=False)
    monkeypatch.setattr(servers, "redis_version", lambda: (7, 0))
    assert "client|setinfo" not in step._users()
    monkeypatch.setattr(servers, "redis_version", lambda: (8, 0))
    assert "+client|setinfo" in step._users()


def test_the_users_are_there_also_in_the_words_in_which_redis_writes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("REDIS_OPERATOR", "REDIS_USERS"):
        monkeypatch.setattr(servers, name, tmp_path / name)
    (tmp_path / "REDIS_OPERATOR").write_text("secret\n")
    monkeypatch.setattr(servers, "redis_version", lambda: (8, 0))
    step = LocalRedis(server(password="secret"), "256mb", is_shared=False)
    saved = step._users().replace("off resetpass", "off sanitize-payload")
    (tmp_path / "REDIS_USERS").write_text(saved)
    assert step._has_users()
    (tmp_path / "REDIS_USERS").write_text(saved.replace(" +ping", ""))
    assert not step._has_users()


# --- Programs ------------------------------------------------------------------------------------
def test_what_supervisor_runs_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "SUPERVISED", tmp_path / "programs.conf")
    assert programs.supervised(PROGRAMS, "") == ()
    assert programs.supervised_here() == (PROGRAMS, "")
    (file,) = programs.supervised(("worker", "beat"), "default:low_priority")
    file.path.write_text(file.text)
    assert programs.supervised_here() == (("worker", "beat"), "default,low_priority")
    assert programs.supervised(*programs.supervised_here()) == (file,)


# --- The command ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("", "arguments are required"),
        ("docker", "invalid choice"),
        ("systemd --delete-data", "--delete-data belongs to uninstall"),
        ("systemd --beat", "--beat belongs to --role worker"),
        ("systemd --role worker --share 10.0.0.0/24", "--share belongs to the host"),
        ("systemd --share 10.0.0.7/24", "expected 10.0.0.0/24"),
        ("systemd --queues a,b", "--queues a,b: expected names joined by colons"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: str, reason: str) -> None:
    command = [str(PROJECT / "scripts" / "install-host"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, reason in done.stderr) == (2, True)
