"""A forked child, as a worker's pool has them, is not held up by its parent's threads."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from task_manager import entries
from task_manager.clients.cancellations import cancellations
from task_manager.clients.stream import STREAM, writer
from tests.processes import wait_until


@contextmanager
def connecting(client: redis.Redis) -> Iterator[None]:
    """A thread is about to make a connection, as long as this lasts; it has the pool's lock."""
    begun, go_on = threading.Event(), threading.Event()
    pool = client.connection_pool
    usual = pool.connection_class

    def slow(**kwargs):
        begun.set()
        go_on.wait(30)
        return usual(**kwargs)

    pool.connection_class = slow
    client.close()
    pool.reset()
    thread = threading.Thread(target=client.ping)
    thread.start()
    assert begun.wait(10)
    try:
        yield
    finally:
        pool.connection_class = usual
        go_on.set()
        thread.join()


def exit_code_of_child(work) -> int:
    if not (child := os.fork()):
        with suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    status: list[int] = []

    def ended() -> bool:
        pid, state = os.waitpid(child, os.WNOHANG)
        if pid:
            status.append(os.waitstatus_to_exitcode(state))
        return bool(pid)

    try:
        wait_until(ended, seconds=10, what="the child ends")
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return status[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_writes_although_its_parent_had_the_lock(broker):
    def work():
        writer().add(lambda: entries.transition({"id": "child"}, "STARTED", 1.0))
        assert writer().flush()

    writer().add(lambda: entries.transition({"id": "parent"}, "STARTED", 1.0))
    with connecting(writer().client):
        assert exit_code_of_child(work) == 0
    assert writer().flush()
    told = b"".join(fields[b"t"] for _, fields in broker.xrange(STREAM))
    assert (told.count(b'"child"'), told.count(b'"parent"')) == (1, 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_cancels_although_its_parent_had_the_lock(broker):
    client = cancellations().client
    with connecting(client):
        assert exit_code_of_child(lambda: cancellations().add(["task"])) == 0
    assert list(cancellations().since(0)[1]) == ["task"]


def test_a_client_is_kept_for_its_address(settings):
    first = writer()
    assert writer() is first
    settings.REDIS_URL = f"{settings.REDIS_URL}?one=other"
    assert writer() is not first
