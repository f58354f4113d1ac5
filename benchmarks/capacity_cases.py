"""The cases of `benchmarks.capacity`: each a list of rows, what, how much and how."""

import argparse
import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from http.client import HTTPConnection
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
from django.contrib.auth.models import User
from django.test import Client
from websockets.asyncio.client import connect

from benchmarks import data, fan_out, messages, reservations, servers, windows, workers
from benchmarks.rounds import progress
from deploy.embedded.servers import free_port
from promotions.clients.promo_queue import promo_queue
from task_manager import entries
from task_manager.clients.stream import writer
from task_manager.services.updates import MAX_CLIENTS, MAX_CLIENTS_OF_USER

Cells = tuple[str, str, str]
TASKS = 10_000
PROMOS = 200_000
#: Processes of the web, as it comes.
WEB_WORKERS = 2


def repeated(title: str, rounds: int, measure: Callable[[], float]) -> float:
    """The median of so many rounds."""
    values = []
    for _ in range(rounds):
        values.append(measure())
        progress(f"{title}: {values[-1]:.4g}")
    return median(values)


def tasks(options: argparse.Namespace, running: servers.Processes) -> list[Cells]:
    count = data.scaled(TASKS, options.scale, 1000)
    published: list[float] = []
    drains: dict[int, list[workers.Drain]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for number, found in drains.items():
            workers.forget()
            published.append(workers.publish(count, 0))
            found.append(workers.drain(running, count, number))
    rows = [("tasks published a second", f"{median(published):,.0f}", "`delay()` in one process")]
    for number, found in drains.items():
        rate = median(one.rate for one in found)
        used = {name: median(one.cpu[name] for one in found) for name in found[0].cpu}
        how = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in used.items())
        rows.append(
            (
                f"tasks done a second, {number} worker{'s' * (number > 1)}",
                f"{rate:,.0f}",
                f"no-ops, {workers.CONCURRENCY} children each, history kept; CPU ms a task: {how}",
            )
        )
    return rows


def promos(options: argparse.Namespace, _: servers.Processes) -> list[Cells]:
    data.shoppers_make(options.scale / 5)
    due = data.scaled(PROMOS, options.scale, 400) // 20
    windows.promos_make(due * 20, data.products_make(options.scale / 5))
    seconds = repeated("promos", options.rounds, partial(windows.check_due, due))
    servers.execute("TRUNCATE promotions_flashpromo CASCADE")
    how = f"`check_active_promos`, {due:,} open and {due:,} close of {due * 20:,}, nobody near"
    return [("promos opened and closed a second", f"{2 * due / seconds:,.0f}", how)]


def shoppers(options: argparse.Namespace, _: servers.Processes) -> list[Cells]:
    there = data.shoppers_make(options.scale / 5)
    eligible = there // 5
    promo = data.promo_make("capacity")
    measure = partial(fan_out.fan_out_once, promo, eligible)
    seconds = repeated("shoppers", options.rounds, measure)
    servers.execute("TRUNCATE promotions_notification")
    how = f"one promo finds {eligible:,} of {there:,} shoppers and writes their notifications"
    return [("shoppers a promo finds a second", f"{eligible / seconds:,.0f}", how)]


def reserve(options: argparse.Namespace, _: servers.Processes) -> list[Cells]:
    there = data.shoppers_make(options.scale / 5)
    buyers = reservations.eligible(
        min(data.scaled(reservations.CALLS, options.scale, 80), there // 5) // 8 * 8
    )
    rows: list[Cells] = []
    for count, title in ((1, "of one promo"), (8, "of 8 promos")):
        quantity = reservations.CALLS * 10
        ids = [data.promo_make(f"{title} {n}", quantity) for n in range(count)]
        measure = partial(reservations.rate, reservations.reserve, 8, ids, buyers)
        found = repeated(f"reservations {title}", options.rounds, measure)
        servers.execute("TRUNCATE promotions_reservation")
        servers.execute("UPDATE promotions_flashpromo SET held = 0 WHERE held > 0")
        rows.append(("reservations a second", f"{found:,.0f}", f"{title}, 8 threads, no HTTP"))
        servers.execute("TRUNCATE promotions_flashpromo CASCADE")
    return rows


def messages_through(options: argparse.Namespace, _: servers.Processes) -> list[Cells]:
    from django.conf import settings

    there = data.shoppers_make(options.scale / 5)
    settings.SQS_WAIT_SECONDS = 0
    settings.SNS_TOPIC_ARN = messages.provision_all()
    promo_queue.cache_clear()
    count = min(data.scaled(500, options.scale, 100), there)
    flow = messages.Flow(promo_queue(), data.promo_make("messages"), count)
    try:
        found = [flow.service() for _ in range(options.rounds)]
    finally:
        messages.remove(flow.queue)
        servers.execute("TRUNCATE promotions_notification")
    published, drained = (median(rates) for rates in zip(*found, strict=True))
    how = f"{count} at once; the server is the limit, not we"
    return [
        ("notifications published a second", f"{published:,.0f}", how),
        ("notifications delivered a second", f"{drained:,.0f}", how),
    ]


# --- Live clients --------------------------------------------------------------------------------
def clients(options: argparse.Namespace, running: servers.Processes) -> list[Cells]:
    # One process takes as many, and the system may give it all of them.
    count = data.scaled(MAX_CLIENTS, options.scale, 20)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cookies = [_cookie(number) for number in range(-(-count // MAX_CLIENTS_OF_USER) * 2)]
    with servers.processes(running.folder) as started:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py"]
        environ = {
            **os.environ,
            "WEB_BIND": f"127.0.0.1:{port}",
            "WEB_WORKERS": str(WEB_WORKERS),
        }
        web = started.start("web", [*command, "marketplace.asgi"], environ)
        web.wait_until(partial(_answers, port), "it answers", seconds=60)
        tree = psutil.Process(web.popen.pid)
        before = _memory(tree)
        addresses = [(port, cookies[n % len(cookies)]) for n in range(count)]
        opened, delays = asyncio.run(_listen(addresses, updates=max(3, options.rounds * 3)))
        memory = (_memory(tree) - before) / count
    delays.sort()
    half, most = (workers.percentile(delays, share) * 1e3 for share in (0.5, 0.99))
    how = f"one web, {WEB_WORKERS} processes; {opened:,.0f} connect a second"
    return [
        ("live clients at once, all served", f"{count:,}", how),
        ("an update reaches them after", f"{half:.0f} ms", f"half of them; 99 %: {most:.0f} ms"),
        ("memory a live client", f"{memory / 1e3:.0f} kB", "of the web's processes together"),
    ]


def _cookie(number: int) -> str:
    """Of a member of the staff, who sees every task."""
    # The shoppers' ids were not taken from the sequence.
    user = User.objects.create(pk=100_000_000 + number, username=f"live-{number}", is_staff=True)
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def _answers(port: int) -> bool:
    http = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        http.request("GET", "/readyz")
        return http.getresponse().status == 200
    except OSError:
        return False
    finally:
        http.close()


def _memory(tree: Any) -> int:
    """Bytes that belong to the processes alone."""
    return sum(process.memory_full_info().uss for process in [tree, *tree.children()])


async def _listen(addresses: list[tuple[int, str]], *, updates: int) -> tuple[float, list[float]]:
    """Connect all, write updates; clients that connect a second, and each update's delays."""
    async with AsyncExitStack() as stack:
        start = time.perf_counter()
        sockets = []
        for port, cookie in addresses:
            headers = {"Cookie": f"sessionid={cookie}"}
            url = f"ws://127.0.0.1:{port}/ws/tasks/"
            socket = connect(url, additional_headers=headers, max_queue=None)
            sockets.append(await stack.enter_async_context(socket))
        rate = len(sockets) / (time.perf_counter() - start)
        progress(f"{len(sockets)} live clients")
        delays: list[float] = []
        for number in range(updates):
            await asyncio.sleep(1)
            delays += await _update(sockets, f"update-{number}")
    return rate, delays


async def _update(sockets: list[Any], task_id: str) -> list[float]:
    async def hears(socket: Any) -> float:
        async for message in socket:
            if task_id in message:
                return time.perf_counter()
        raise servers.Failed("a live client was sent away")

    waiting = [asyncio.create_task(hears(socket)) for socket in sockets]
    await asyncio.sleep(0)
    sent = time.perf_counter()
    entry = entries.transition({"id": task_id, "celery_name": workers.TASK}, "PENDING", time.time())
    await asyncio.to_thread(writer().send, [entry])
    return [at - sent for at in await asyncio.wait_for(asyncio.gather(*waiting), 60)]
