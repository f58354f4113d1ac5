"""The settings refuse to start on what is wrong; each case is a process of its own."""

import os
import subprocess
import sys

import pytest

PRODUCTION = {
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "x" * 50,
    "POSTGRES_PASSWORD": "a secret",
    "REDIS_PASSWORD": "another",
}


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    keep = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "marketplace.settings"}
    return subprocess.run(
        [sys.executable, *command],
        env=keep | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"])
@pytest.mark.parametrize("value", ["", "marketplace", "development-only"])
def test_a_missing_or_public_secret_stops_the_start_by_name(name, value):
    result = run("manage.py", "check", **(PRODUCTION | {name: value}))
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {name} is ")
    assert "Traceback" not in result.stderr


def test_a_public_metrics_token_stops_the_start():
    result = run("manage.py", "check", **PRODUCTION, METRICS_TOKEN="changeme")
    assert result.returncode == 1
    assert result.stderr.startswith("error: METRICS_TOKEN is the public default")


def test_development_needs_no_secret():
    assert run("manage.py", "check", DJANGO_DEBUG="1").returncode == 0


def test_a_wrong_celery_variable_stops_the_start_by_name():
    result = run("manage.py", "check", **PRODUCTION, CELERY_TASK_ACK_LATE="1")
    assert result.returncode == 1
    assert "CELERY_TASK_ACK_LATE" in result.stderr


def test_a_wrong_celery_variable_stops_a_worker_by_name():
    result = run(
        "-m", "celery", "-A", "marketplace", "worker", **PRODUCTION, CELERY_TASK_ACKS_LATE="x"
    )
    assert result.returncode != 0
    assert "CELERY_TASK_ACKS_LATE='x'" in result.stderr


def test_celery_takes_the_environments_word():
    code = (
        "from marketplace.celery import app; c = app.conf;"
        "print(c.task_acks_late, c.worker_prefetch_multiplier, c.broker_url,"
        " c.beat_schedule['check-flash-promos-every-minute']['schedule'])"
    )
    result = run(
        "-c",
        code,
        **PRODUCTION,
        CELERY_TASK_ACKS_LATE="on",
        CELERY_WORKER_PREFETCH_MULTIPLIER="1",
        CHECK_ACTIVE_PROMOS_SECONDS="7",
    )
    url = "redis://marketplace:another@127.0.0.1:6379/0"
    assert result.stdout.split() == ["True", "1", url, "7.0"]


def test_a_password_may_hold_any_character():
    environ = PRODUCTION | {"REDIS_PASSWORD": "a@b:c/d#e%f"}
    result = run("-c", "from marketplace.celery import app; print(app.conf.broker_url)", **environ)
    assert result.stdout.strip() == "redis://marketplace:a%40b%3Ac%2Fd%23e%25f@127.0.0.1:6379/0"


def test_celery_shows_no_secret_of_the_settings():
    secrets = {
        **PRODUCTION,
        "FLOWER_BASIC_AUTH": "admin:a-login",
        "METRICS_TOKEN": "a-token",
        "TASK_WEBHOOK_SECRET": "a-key",
        "EMAIL_HOST_PASSWORD": "a-mail-password",
    }
    for command in (
        ("-m", "celery", "-A", "marketplace", "report"),
        ("-c", "from marketplace.celery import app; print(app.conf.table(with_defaults=True))"),
    ):
        result = run(*command, **secrets)
        assert result.returncode == 0, result.stderr
        assert "CELERY_BROKER_URL" in result.stdout
        shown = result.stdout + result.stderr
        values = {value.rpartition(":")[2] for value in secrets.values()} - {"0"}
        assert not [value for value in values if value in shown]
