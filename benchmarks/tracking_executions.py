"""(f): the API, and the clean-up, over a history of a million executions."""

import argparse
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from statistics import median
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from benchmarks import data, table
from benchmarks.rounds import progress, seconds
from benchmarks.servers import Failed, calm, connect
from task_manager.api.filters import ORDERS
from task_manager.models import TaskExecution, TaskStatus
from task_manager.services.executions import executions_cleanup
from task_manager.utils import get_module_stats

EXECUTIONS = 1_000_000
TASKS = 40
MODULES = ("billing", "payroll", "stock", "reports", "marketing", "promotions")
USERS = 500
DAYS = 100
#: Each request is answered so often in a round.
REPEATS = 4

API = "/api/tasks/"
#: Stands for as far as a listing goes.
LAST = "page=last"

_USERS = """
    INSERT INTO auth_user (id, username, email, password, first_name, last_name, is_active,
                           is_staff, is_superuser, date_joined)
    SELECT n, 'user' || n, '', '!', '', '', true, n > %(users)s, false, now()
    FROM generate_series(1, %(users)s + 1) n
"""

# Some tasks and users have far more than others; three in ten belong to nobody. The newest of a
# thousand have not ended. A failure leaves a traceback.
_EXECUTIONS = """
    INSERT INTO task_manager_taskexecution (
        task_id, task_name, celery_name, task_module, description, user_id, status,
        previous_status, position, changed_at, progress, message, parameters, result, error,
        traceback, worker, queue, retries, created_at, started_at, finished_at, duration)
    SELECT md5(n::text)::uuid::text, module || '.task_' || task, module || '.tasks.task_' || task,
        module, 'What task ' || task || ' is good for', user_id, status, 'STARTED', position,
        COALESCE(finished_at, started_at, created_at), CASE status WHEN 'SUCCESS' THEN 100 ELSE 0
        END, '', jsonb_build_object('user_id', user_id, 'month', n %% 12 + 1, 'note', md5(n::text)),
        CASE status WHEN 'SUCCESS' THEN jsonb_build_object('processed', n %% 1000) END,
        CASE status WHEN 'FAILURE' THEN 'ValueError: row ' || n %% 1000 || ' has no number'
            ELSE '' END,
        CASE status WHEN 'FAILURE' THEN repeat('  File "tasks.py", line 7, in work' || chr(10), 30)
            ELSE '' END,
        CASE status WHEN 'PENDING' THEN '' ELSE 'celery@host' || n %% 4 END, 'default',
        CASE status WHEN 'RETRY' THEN 1 ELSE 0 END, created_at, started_at, finished_at,
        extract(epoch FROM finished_at - started_at)
    FROM (
        SELECT *, (%(modules)s)[1 + task %% %(kinds)s] AS module,
            CASE WHEN status <> 'PENDING' THEN created_at + pause * interval '2 seconds' END
                AS started_at,
            CASE WHEN status IN ('SUCCESS', 'FAILURE', 'REVOKED') THEN created_at
                + pause * interval '2 seconds' + 0.05 * 1.2 ^ task * exp(spread) * interval '1 s'
                END AS finished_at,
            CASE status WHEN 'PENDING' THEN 0 WHEN 'STARTED' THEN 1 WHEN 'RETRY' THEN 2
                WHEN 'SUCCESS' THEN 2 ^ 40 + 3 ELSE 2 ^ 40 + 2 END AS position
        FROM (
            SELECT n, floor(%(tasks)s * random() ^ 2)::integer AS task,
                CASE WHEN random() < 0.7 THEN 1 + floor(%(users)s * random() ^ 2)::integer END
                    AS user_id,
                CASE WHEN n > 0.999 * %(rows)s
                        THEN (ARRAY['PENDING', 'STARTED', 'RETRY', 'PENDING'])[1 + n %% 4]
                    WHEN n %% 50 = 7 THEN 'FAILURE'
                    WHEN n %% 300 = 11 THEN 'REVOKED' ELSE 'SUCCESS' END AS status,
                now() - interval '10 minutes' - (%(rows)s - n) * interval '1 day'
                    * %(days)s / %(rows)s AS created_at,
                random() AS pause, 2 * (random() + random() + random() - 1.5) AS spread
            FROM generate_series(1, %(rows)s) n
        ) drawn
    ) described
"""

# As the history counts each end, by the hour and in all.
_STATISTICS = """
    INSERT INTO task_manager_taskstatistic
        (hour, task_name, task_module, status, bucket, count, seconds)
    SELECT span.hour, task_name, task_module, status,
        ceil(4 * ln(duration) / ln(2::float8))::integer, count(*), sum(duration)
    FROM task_manager_taskexecution
    CROSS JOIN LATERAL (VALUES (date_trunc('hour', finished_at, 'UTC')), (NULL)) AS span(hour)
    WHERE finished_at IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
"""

CALLERS = ("staff", "user")
#: For each caller, what to do for an answer; what has no caller is staff's.
Works = Mapping[str, Callable[[], object]]


def run(options: argparse.Namespace) -> list[str]:
    """The paragraphs and the table of what answers how fast."""
    rows = _executions_make(options.scale)
    measured = _measure(_works(), options.rounds)
    worst = max(max(values) for answers in measured.values() for values in answers.values())
    return [
        f"(f) {rows:,} executions of {TASKS} tasks in {len(MODULES)} modules, of {DAYS} days and "
        f"{USERS} users, of whom the one with the most asks. Milliseconds of an answer, through "
        f"Django's test client and with the look-up of the session, below `{API}`; `page=last` is "
        "as far as a listing goes: 500, or less where it is shorter. The slowest took "
        f"{worst * 1000:.0f} ms.",
        _table(measured),
        _cleanup(),
    ]


# --- What is asked -------------------------------------------------------------------------------
def _works() -> dict[str, Works]:
    staff, user = _signed_in(USERS + 1), _signed_in(1)
    works: dict[str, Works] = {
        f"`{address}`": {"staff": _getting(staff, address), "user": _getting(user, address)}
        for address in _addresses()
    }
    for days in (30, 90):
        address = f"stats/?days={days}"
        works[f"`{address}`"] = {"staff": _getting(staff, address)}
        name = f'`get_module_stats("{MODULES[0]}", days={days})`'
        works[name] = {"staff": partial(get_module_stats, MODULES[0], days=days)}
    return works


def _addresses() -> list[str]:
    newest = TaskExecution.objects.latest("created_at")
    middle = newest.created_at - timedelta(days=DAYS / 2)
    module, task = MODULES[0], f"{MODULES[0]}.task_0"
    rare = TaskExecution.objects.filter(celery_name__endswith=f".task_{TASKS - 1}")[0].task_name
    day = f"created_after={_iso(middle)}&created_before={_iso(middle + timedelta(days=1))}"
    queries = [
        "",
        LAST,
        "page_size=100",
        *("user=1", f"user=1&{LAST}", f"user={USERS}"),
        *(f"task_module={module}", f"task_module={module}&{LAST}", "task_module=unknown"),
        *(f"task_name={task}", f"task_name={task}&{LAST}", f"task_name={rare}&{LAST}"),
        *(f"status={status}" for status in TaskStatus.values),
        *(f"status={status}&{LAST}" for status in (TaskStatus.SUCCESS, TaskStatus.FAILURE)),
        *(day, f"{day}&{LAST}", f"created_before={_iso(newest.created_at - timedelta(days=99))}"),
        f"user=1&task_module={module}&status=FAILURE",
        *(f"task_name={rare}&status=PENDING", f"task_name={rare}&status=FAILURE&{LAST}"),
        f"user={USERS}&status=PENDING",
        *(f"search={module}", f"search={module}&{LAST}", "search=good", "search=nowhere"),
        f"search={newest.task_id}",
        *(f"ordering={order}" for order in ORDERS),
        f"ordering=duration&{LAST}",
        f"ordering=-duration&task_module={module}&status=SUCCESS",
    ]
    own = TaskExecution.objects.filter(user=1).latest("created_at")
    return [
        *(f"executions/?{query}".removesuffix("?") for query in queries),
        f"executions/{own.task_id}/",
        f"{own.task_id}/status/",
        "user-tasks/",
        f"user-tasks/?{LAST}",
        f"user-tasks/?task_module={module}&status=SUCCESS",
    ]


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%MZ")


def _signed_in(user_id: int) -> Client:
    warnings.filterwarnings("ignore", "No directory at")  # nobody asks for static files
    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.get(pk=user_id))
    return client


def _getting(client: Client, address: str) -> Callable[[], object]:
    if LAST in address:
        count = _get(client, address.replace(LAST, "page=1")).json()["count"]
        address = address.replace(LAST, f"page={max(1, ceil(count / 20))}")
    return partial(_get, client, address)


def _get(client: Client, address: str) -> Any:
    response = client.get(API + address)
    if response.status_code != 200:
        raise Failed(f"{address} answers {response.status_code}: {response.content[:1000]!r}")
    return response


# --- Measuring -----------------------------------------------------------------------------------
def _measure(works: Mapping[str, Works], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds for each repetition, after a round to warm up."""
    measured: dict[str, dict[str, list[float]]] = {
        name: {caller: [] for caller in callers} for name, callers in works.items()
    }
    for number in range(rounds + 1):
        for name, callers in works.items():
            for caller, work in callers.items():
                timings = [seconds(work) for _ in range(REPEATS if number else 1)]
                measured[name][caller] += timings if number else []
        progress(f"(f) answers, round {number} of {rounds}" if number else "(f) warmed up")
    return measured


def _table(measured: Mapping[str, Mapping[str, list[float]]]) -> str:
    return table.markdown(
        ["answer", "staff, median", "staff, worst", "user, median", "user, worst"],
        [
            [name, *(cell for caller in CALLERS for cell in _cells(answers.get(caller)))]
            for name, answers in measured.items()
        ],
        texts={"answer"},
    )


def _cells(values: list[float] | None) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{1000 * value:.0f}" for value in (median(values), max(values))]


def _cleanup() -> str:
    counts: list[int] = []
    duration = seconds(lambda: counts.append(executions_cleanup()))
    return (
        f"`executions_cleanup` removed the {counts[0]:,} finished executions past "
        f"{settings.TASK_RETENTION_DAYS} days in {duration:.1f} s: {counts[0] / duration:,.0f} /s."
    )


# --- The history ---------------------------------------------------------------------------------
def _executions_make(scale: float) -> int:
    rows = data.scaled(EXECUTIONS, scale, 10_000)
    progress(f"(f) making {rows:,} executions")
    numbers = {"rows": rows, "tasks": TASKS, "users": USERS, "days": DAYS, "kinds": len(MODULES)}
    with closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SELECT setseed(0.5)")
        cursor.execute(_USERS, numbers)
        cursor.execute(_EXECUTIONS, numbers | {"modules": list(MODULES)})
        cursor.execute(_STATISTICS)
    calm("task_manager_taskexecution", "task_manager_taskstatistic", "auth_user")
    return rows
