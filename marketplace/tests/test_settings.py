"""The settings refuse to start on what is wrong; each case is a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.settings import DEVELOPMENT_KEY

PROJECT = Path(__file__).resolve().parent.parent.parent

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


def test_production_passes_every_check_of_a_deployment(tmp_path):
    """With what scripts/init-env writes and nothing else, as the compose files pass it on."""
    (tmp_path / "scripts").mkdir()
    for name in (".env.example", "scripts/init-env"):
        shutil.copy(PROJECT / name, tmp_path / name)
    subprocess.run([tmp_path / "scripts/init-env"], check=True, capture_output=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    written = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    result = run("manage.py", "check", "--deploy", "--fail-level", "DEBUG", **written)
    assert (result.returncode, result.stderr) == (0, "")
    assert "no issues" in result.stdout


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("DJANGO_HTTPS", "0", "security.W008"),
        ("DJANGO_HSTS_SECONDS", "0", "security.W004"),
        ("DJANGO_HSTS_SUBDOMAINS", "0", "security.W005"),
        ("DJANGO_SECRET_KEY", "x" * 50, "security.W009"),
    ],
)
def test_the_checks_of_a_deployment_tell_of_what_is_turned_off(name, value, warning):
    environ = PRODUCTION | {"DJANGO_SECRET_KEY": "".join(map(chr, range(65, 91))) * 2, name: value}
    result = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", **environ)
    assert result.returncode == 1
    assert warning in result.stderr


@pytest.mark.parametrize(("key", "code"), [("x" * 31, 1), ("x" * 32, 0), ("ñ" * 16, 0)])
def test_a_short_secret_key_stops_the_start_by_name(key, code):
    result = run("manage.py", "check", **(PRODUCTION | {"DJANGO_SECRET_KEY": key}))
    assert result.returncode == code
    if code:
        assert result.stderr.startswith("error: DJANGO_SECRET_KEY is too short: 31 bytes")
        assert "Traceback" not in result.stderr


def test_the_key_of_development_is_long_enough_for_tokens_and_public():
    code = (
        "import django; django.setup();"
        "from rest_framework_simplejwt.tokens import AccessToken; print(str(AccessToken()))"
    )
    result = run("-W", "error", "-c", code, DJANGO_DEBUG="1")
    assert (result.returncode, result.stderr) == (0, "")
    public = run("manage.py", "check", **(PRODUCTION | {"DJANGO_SECRET_KEY": DEVELOPMENT_KEY}))
    assert public.stderr.startswith("error: DJANGO_SECRET_KEY is the public default")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUSTED_PROXIES", "proxy"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("DJANGO_HTTPS", "yes please"),
        ("DJANGO_HSTS_SECONDS", "-1"),
        ("LOGIN_FAILURES", "0"),
        ("MAX_BODY_BYTES", "1M"),
    ],
)
def test_a_wrong_variable_of_security_stops_the_start_by_name(name, value):
    result = run("manage.py", "check", **PRODUCTION, **{name: value})
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {name}={value!r}: ")


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


def test_another_broker_than_redis_is_refused():
    result = run("manage.py", "check", **PRODUCTION, CELERY_BROKER_URL="sqs://key:secret@")
    assert result.returncode == 1
    assert result.stderr.startswith("error: CELERY_BROKER_URL is a 'sqs' one: leases, limits")
    assert "secret" not in result.stderr


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
