"""The users of Redis: who enters, and that the application may do what it needs and no more."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chain, chord, current_app, group
from celery.result import AsyncResult, GroupResult
from django.conf import settings
from kombu import Connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.embedded.servers import Redis
from tests.processes import wait_until
from tests.redis_commands import DANGEROUS
from tests.servers import operator
from tests.test_worker_cancel import running

COMPOSE = Path(__file__).resolve().parent.parent / "compose" / "redis"


@pytest.fixture(scope="module")
def application() -> Iterator[Any]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture(scope="module")
def all_powerful() -> Iterator[Any]:
    with operator(settings.REDIS_URL) as client:
        yield client


# --- Who enters ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("login", "answer"),
    [
        ({"username": None, "password": None}, "must be called with the client already authent"),
        ({"username": None}, "invalid username-password pair or user is disabled"),
        ({"username": "default"}, "invalid username-password pair or user is disabled"),
        ({"username": "somebody"}, "invalid username-password pair or user is disabled"),
        ({"password": "wrong"}, "invalid username-password pair or user is disabled"),
        ({"password": ""}, "invalid username-password pair or user is disabled"),
    ],
)
def test_nobody_enters_but_by_name_and_password(login: dict[str, Any], answer: str) -> None:
    with redis.Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0)) as client:
        client.connection_pool.connection_kwargs |= login
        with pytest.raises(redis.AuthenticationError, match=answer):
            client.ping()


# --- What it may do ------------------------------------------------------------------------------
@pytest.mark.parametrize("command", DANGEROUS)
def test_a_dangerous_command_is_refused(application: Any, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        application.execute_command(*command.split())


def test_debug_is_off_for_all(all_powerful: Any) -> None:
    with pytest.raises(redis.ResponseError, match="DEBUG command not allowed"):
        all_powerful.execute_command("DEBUG", "SLEEP", "0")


def test_a_script_may_do_no_more_than_its_caller(application: Any) -> None:
    with pytest.raises(redis.ResponseError, match="ACL"):
        application.eval("return redis.call('FLUSHALL')", 0)


def test_exactly_the_commands_of_the_file_are_granted(all_powerful: Any) -> None:
    text = (COMPOSE / "application.rules").read_text()
    listed = set(re.findall(r"\+(\S+)", re.sub("#.*", "", text)))
    assert granted(all_powerful, settings.REDIS_USER) == listed
    dangerous = set(all_powerful.acl_cat("dangerous"))
    assert not listed & dangerous


def granted(client: Any, user: str) -> set[str]:
    """Each command, and each with a subcommand, that the user may call; not those free to all."""
    arities: dict[str, int] = {}
    for command in client.command().values():
        if "no_auth" not in command["flags"]:
            subcommands = {sub[0].decode(): sub[1] for sub in command["subcommands"]}
            arities |= subcommands or {command["name"]: command["arity"]}

    def is_granted(name: str, arity: int) -> bool:
        words = name.split("|")
        words += ["1"] * (abs(arity) - len(words))
        return bool(client.execute_command("ACL DRYRUN", user, *words) == b"OK")

    return {name for name, arity in arities.items() if is_granted(name, arity)}


# --- What it needs -------------------------------------------------------------------------------
@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_all_that_celery_offers_works_and_asks_for_nothing_more(
    broker: redis.Redis, tmp_path: Path
) -> None:
    broker.acl_log_reset()
    add = current_app.signature("probe.add")
    with running(tmp_path, "one", "-E"):
        assert group(add.clone((n, n)) for n in range(3)).delay().get(timeout=30)
        grouped: Any = group(add.clone((n, n)) for n in range(3)).apply_async()
        grouped.save()
        assert GroupResult.restore(grouped.id).get(timeout=30)
        grouped.forget()
        nested = group(group(add.clone((1, 2))), add.clone((3, 4)))
        wider = [add.clone((1, 1)), current_app.signature("probe.widen")]
        for header in ([add.clone((n, n)) for n in range(3)], nested, wider):
            ended = chord(header, current_app.signature("probe.trace_all")).delay()
            assert ended.get(timeout=30)
        linked = chain(add.clone((1, 1)), current_app.signature("probe.trace_all")).delay()
        assert linked.get(timeout=30)
        later = add.clone((1, 1)).apply_async(countdown=600)
        inspect = current_app.control.inspect()
        wait_until(inspect.scheduled, what="the worker has what is due later")
        assert current_app.control.revoke(later.id, reply=True)
        AsyncResult(later.id).forget()
        assert current_app.control.pool_grow(1, reply=True)
        assert current_app.control.enable_events(reply=True)
        assert inspect.active_queues()
    current_app.control.purge()
    with Connection(settings.REDIS_URL) as connection:
        queue = connection.SimpleQueue("by-hand", queue_opts={"expires": 60})
        queue.put({"a": 1})
        message = queue.get(timeout=10)
        message.requeue()
        queue.get(timeout=10).ack()
        queue.clear()
        queue.queue.delete()
        queue.close()
    assert refused(broker) == set()


def refused(client: redis.Redis) -> set[str]:
    """What the application was refused in this test's own database."""
    here = client.connection_pool.connection_kwargs["db"]
    entries: Any = client.acl_log()
    return {entry["object"] for entry in entries if int(entry["client-info"]["db"]) == here}


# --- The two ways of writing them ----------------------------------------------------------------
def users(**variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([COMPOSE / "users"], env=environ, capture_output=True, text=True)


def test_compose_and_the_embedded_way_make_the_same_users(tmp_path: Path) -> None:
    (tmp_path / "operator").write_text("s3cret\n")
    odd = """p@s:/#s$w %o"r\\d '${HOME}"""
    printed = users(
        REDIS_USER="shop",
        REDIS_PASSWORD=odd,
        OPERATOR_PASSWORD_FILE=str(tmp_path / "operator"),
    )
    server = Redis(tmp_path, port=1, password=odd, user="shop", operator_password="s3cret")
    server.prepare()
    lines = [line for line in server.config.read_text().splitlines() if line.startswith("user")]
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout.splitlines() == lines
    assert odd not in printed.stdout


def test_a_password_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\r\n")
    of_file = users(REDIS_PASSWORD_FILE=str(tmp_path / "secret"))
    assert of_file.stdout == users(REDIS_PASSWORD="s3cret").stdout != ""


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "REDIS_PASSWORD is not set"),
        ({"REDIS_PASSWORD": ""}, "REDIS_PASSWORD is not set"),
        ({"REDIS_PASSWORD_FILE": "/dev/null"}, "REDIS_PASSWORD is not set"),
        ({"REDIS_PASSWORD_FILE": "/missing"}, "REDIS_PASSWORD_FILE=/missing cannot be read"),
        ({"REDIS_PASSWORD": "a", "REDIS_PASSWORD_FILE": "/b"}, "are both set"),
        ({"REDIS_PASSWORD": "a", "REDIS_USER": "default"}, "REDIS_USER=default: "),
        ({"REDIS_PASSWORD": "a", "REDIS_USER": "operator"}, "REDIS_USER=operator: "),
        ({"REDIS_PASSWORD": "a", "REDIS_USER": "a b"}, "REDIS_USER=a b: letters, digits"),
    ],
)
def test_what_makes_no_users_is_refused_by_name(variables: dict[str, str], reason: str) -> None:
    done = users(**variables)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stdout == ""
