"""The production stack under load: what was asked of it, and what came of that."""

import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.stack.stack import Stack, run, wait_until

LOAD = "tests/drills/docker-compose.yml"
#: Added for the drills of Sentinel.
SENTINEL = "compose/sentinel.yml"
REDISES = ("redis", "redis-2", "redis-3")
SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")
SERVICES = ("proxy", "web", "worker", "beat", "flower", "postgres", "redis", "aws")

_COUNTS = """
    SELECT json_build_object(
        'published', (SELECT count(*) FROM drill_order WHERE published),
        'ran', (SELECT count(*) FROM drill_run),
        'rows', (SELECT count(*) FROM drill_row),
        'done', (SELECT count(DISTINCT number) FROM drill_row),
        'lost', (SELECT count(*) FROM drill_order LEFT JOIN drill_row USING (number)
            WHERE published AND drill_row.number IS NULL),
        'owed', (SELECT count(*) FROM promotions_notification),
        'sent', (SELECT count(*) FROM promotions_notification WHERE status <> 'PENDING'),
        'delivered', (SELECT count(DISTINCT notification) FROM drill_delivery),
        'deliveries', (SELECT count(*) FROM drill_delivery),
        'undelivered', (SELECT count(*) FROM promotions_notification WHERE status <> 'DELIVERED'),
        'oversold', (SELECT COALESCE(sum(GREATEST(0, taken - quantity)), 0) FROM (
            SELECT promo.quantity, count(*) AS taken FROM promotions_flashpromo AS promo
            JOIN promotions_reservation AS sale ON sale.promo_id = promo.id
            WHERE sale.status IN ('ACTIVE', 'COMPLETED') GROUP BY promo.id) AS sales),
        'completed', (SELECT count(*) FROM promotions_reservation WHERE status = 'COMPLETED'),
        'again', (SELECT COALESCE(sum((result->>'again')::integer), 0)
            FROM task_manager_taskexecution
            WHERE celery_name = 'task_manager.tasks.reconcile_executions' AND status = 'SUCCESS'
                AND created_at > (SELECT min(starts_at) FROM promotions_flashpromo)),
        'ticks', (SELECT count(*) FROM task_manager_taskexecution
            WHERE celery_name = 'promotions.tasks.check_active_promos' AND status = 'SUCCESS'),
        'unfinished', (SELECT count(*) FROM task_manager_taskexecution
            WHERE celery_name = 'drill.leave_row' AND status IN ('PENDING', 'STARTED', 'RETRY')),
        'failed', (SELECT count(*) FROM task_manager_taskexecution
            WHERE celery_name = 'drill.leave_row' AND status IN ('FAILURE', 'REVOKED')))
"""

Counts = dict[str, int]


@dataclass
class Buyers:
    """Reserve and complete without end, over HTTP; what the web says yes to is counted."""

    url: str
    tokens: list[str]
    answers: int = 0
    completed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Buyers":
        self.threads = [threading.Thread(target=self._buy, args=[token]) for token in self.tokens]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join()

    def _buy(self, token: str) -> None:
        promo = None
        while not self._stop.wait(0.5):
            try:
                if promo is None:
                    listed = self._call(token, "GET", "/api/promos/?active=true")["results"]
                    sold = [each for each in listed if each["product_name"] == "sold"]
                    promo = sold[0]["id"] if sold else None
                    continue
                reservation = self._call(token, "POST", f"/api/promos/{promo}/reserve/")["id"]
                self._call(token, "POST", f"/api/reservations/{reservation}/complete/")
                self.completed += 1
            except urllib.error.HTTPError as error:
                with error:
                    self.answers += error.code < 500
            except (OSError, ValueError):
                continue

    def _call(self, token: str, method: str, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", method=method)  # noqa: S310
        request.add_header("Authorization", f"Bearer {token}")
        # As the proxy in front would say it.
        request.add_header("X-Forwarded-Proto", "https")
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            body = json.loads(answer.read())
        self.answers += 1
        return body


class Watch:
    """How long work stood still, from the fault to its end."""

    def __init__(self, sign: Callable[[], int | None]) -> None:
        self._sign = sign
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        #: Seconds.
        self.longest = 0.0

    def __enter__(self) -> "Watch":
        self._value = self._sign() or 0
        self._grew_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.3):
            value = self._sign()
            if value is not None and value > self._value:
                self.longest = max(self.longest, time.monotonic() - self._grew_at)
                self._value, self._grew_at = value, time.monotonic()


class Arena:
    """A running stack with shoppers, and the means to load it and to break it."""

    def __init__(self, stack: Stack, shoppers: int, tasks: int) -> None:
        self.stack = stack
        self.shoppers = shoppers
        self.tasks = tasks

    # --- Load ---
    def prepare(self) -> None:
        self._inside("prepare", str(self.shoppers))
        self.tokens = self._inside("tokens").split()

    def reset(self) -> None:
        wait_until(self.is_idle, seconds=300, what="the last round's messages are gone")
        self._inside("reset")

    def buyers(self) -> Buyers:
        return Buyers(f"http://127.0.0.1:{self.stack.ports['HOST_PORT_WEB']}", self.tokens)

    def publisher(self, way: str) -> "subprocess.Popen[bytes]":
        """In a container of its own, which nobody kills."""
        return self._aside("publish", str(self.tasks), way, stdout=subprocess.DEVNULL)

    def flood(self, seconds: float) -> dict[str, int]:
        process = self._aside("flood", str(seconds), stdout=subprocess.PIPE)
        output, _ = process.communicate()
        counts: dict[str, int] = json.loads(output)
        return counts

    def _inside(self, *command: str) -> str:
        return self.stack.execute("web", "python", "-m", "drill", *command)

    def _aside(self, *command: str, stdout: int) -> "subprocess.Popen[bytes]":
        return self.stack.start(
            *("docker", "compose", "run", "--rm", "--no-deps", "-T", "web"),
            *("python", "-m", "drill", *command),
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )

    # --- Looking ---
    def counts(self) -> Counts | None:
        """None while PostgreSQL does not answer."""
        done = self.stack.try_compose(
            *("exec", "-T", "postgres", "psql", "-d", "marketplace"),
            *("-qAtX", "-v", "ON_ERROR_STOP=1", "-c", _COUNTS),
        )
        if done.returncode:
            return None
        counts: Counts = json.loads(done.stdout)
        return counts

    def is_idle(self) -> bool:
        """Nothing of the drill's waits in a queue or is held by a worker."""
        done = self.stack.try_compose("exec", "-T", "web", "python", "-m", "drill", "broker")
        if done.returncode:
            return False
        state = json.loads(done.stdout.splitlines()[-1])
        held = [task for task in state["held"] if task.startswith("drill.")]
        return not held and sum(state["waiting"].values()) <= 10

    def unhealthy(self) -> list[str]:
        """The containers that do not run, or whose health check does not say that they are well."""

        def is_well(name: str) -> bool:
            state = self.inspect(name)["State"]
            return bool(
                state["Running"] and state.get("Health", {}).get("Status", "healthy") == "healthy"
            )

        return [name for name in self.names() if not is_well(name)]

    def names(self, *services: str) -> list[str]:
        listed = self.stack.compose(
            "ps", "--all", "--format", "{{.Name}}", *(services or self._services())
        )
        # Without those that `compose run` made.
        return sorted(name for name in listed.split() if "-run-" not in name)

    def _services(self) -> tuple[str, ...]:
        more = (*REDISES[1:], *SENTINELS) if SENTINEL in self.stack.files else ()
        return SERVICES + more

    def master(self) -> str | None:
        """The service whose Redis is the master."""
        for service in REDISES:
            role = self.stack.try_compose("exec", "-T", service, "redis-cli", "role")
            if role.stdout.startswith("master"):
                return service
        return None

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("docker", "inspect", container).stdout)[0]
        return found

    def leader(self) -> str:
        """The beat that has the lock."""

        def acquired(name: str) -> str:
            found = run("docker", "logs", "--timestamps", name)
            lines = [line for line in (found.stdout + found.stderr).splitlines() if "lock" in line]
            last = [line.split()[0] for line in lines if re.search("Acquired lock", line)]
            return last[-1] if last else ""

        return max(self.names("beat"), key=acquired)

    # --- Breaking ---
    def on_host(self, *command: str) -> str:
        """As root of the Docker host, whoever runs this."""
        if os.geteuid():
            options = ("--rm", "--privileged", "--pid=host", "--network=host", "redis:8.0")
            inside = ("nsenter", "--target", "1", "--mount", "--", *command)
            command = ("docker", "run", *options, *inside)
        done = run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def pid(self, container: str) -> int:
        return int(self.inspect(container)["State"]["Pid"])

    def kill(self, container: str) -> None:
        """As the kernel would: not by Docker, which then would not start it anew."""
        self.on_host("kill", "-KILL", str(self.pid(container)))

    def wait_until_healthy(self, seconds: float = 300) -> None:
        wait_until(
            lambda: not self.unhealthy(), seconds=seconds, what="every container is healthy again"
        )

    def wait(self, condition: Callable[[Counts], object], *, seconds: float, what: str) -> Counts:
        """The counts as soon as the condition holds of them."""

        def holds() -> Counts | None:
            counts = self.counts()
            return counts if counts and condition(counts) else None

        found: Counts = wait_until(holds, seconds=seconds, what=what)
        return found
