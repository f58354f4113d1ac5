"""Tasks that do what the tests of a real worker need."""

import os
import signal
import time
from contextlib import suppress

from celery import chord, shared_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from django.conf import settings

from tests.servers import operator


def leave_trace(name):
    with operator(settings.REDIS_URL) as client:
        client.hincrby("trace", name, 1)


@shared_task
def add(a, b, password=None):
    """Add two numbers."""
    return {"sum": a + b}


@shared_task
def trace(name):
    leave_trace(name)
    return name


@shared_task(acks_late=True, reject_on_worker_lost=True)
def trace_late(name):
    leave_trace(name)
    return name


@shared_task
def trace_all(results):
    leave_trace("all")
    return results


@shared_task(bind=True)
def widen(self):
    self.add_to_chord(self.app.signature("probe.add", (1, 1)))


@shared_task
def fail(text):
    raise ValueError(text)


@shared_task(bind=True, max_retries=1)
def flaky(self, pause):
    if self.request.retries == 0:
        raise self.retry(exc=ConnectionError("busy"), countdown=pause)
    return "at last"


@shared_task
def sleep(seconds):
    leave_trace("slept")
    time.sleep(seconds)


@shared_task
def stubborn(seconds):
    """Sleep on at SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)


# Celery looks at the hard limit once the soft one is over.
@shared_task(time_limit=1.5, soft_time_limit=1)
def endless():
    while True:
        with suppress(SoftTimeLimitExceeded):
            time.sleep(0.1)


@shared_task
def suicide():
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def ignore():
    raise Ignore


@shared_task
def reject():
    raise Reject("no", requeue=False)


@shared_task(ignore_result=True)
def unheard():
    return "nothing"


@shared_task(ignore_result=True)
def unheard_secret():
    return {"token": "hunter2hunter2"}


@shared_task
def notes():
    from task_manager import observer

    return len(observer.notes)


@shared_task
def outside(task_id):
    """Track work under an id of one's own."""
    from task_manager.utils import finish_task, start_task_tracking

    execution = start_task_tracking(task_id, "import", "probe")
    finish_task(execution.id, result="all in")


@shared_task
def fratricide():
    """Kill the worker."""
    leave_trace("killed")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@shared_task
def nap(seconds):
    """Needs Redis for nothing."""
    time.sleep(seconds)


@shared_task
def gather(count):
    """A chord: naps, and a trace once all are over."""
    chord([nap.s(1) for _ in range(count)])(trace.si("all"))


@shared_task(bind=True, max_retries=5)
def retry_without_memory(self):
    """Retry once Redis takes no write; another run has nothing to do."""
    if self.request.delivery_info.get("redelivered") or self.request.retries:
        return
    leave_trace("waits")
    with operator(settings.REDIS_URL) as client:
        while client.config_get("maxmemory")["maxmemory"] != "1":
            time.sleep(0.05)
    raise self.retry(countdown=0)


@shared_task
def sign_in(user, password, pause=0):
    """Return and raise what a careless task would."""
    leave_trace("signed in")
    time.sleep(pause)
    if user == "wrong":
        raise ValueError(f"no such login: password={password}, 'token': '{password}'")
    return {"user": user, "session": {"token": {"value": password}}}
