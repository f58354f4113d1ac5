"""What sizes would need that do not fit here: a simulation, calibrated and tried on this machine.

Measures a worker with production's settings at its limit, then under a load that comes at random,
and how long its tasks waited. Simulates the same, prints both, and then what more load would need.
Starts servers of its own and removes everything. Nothing passes or fails by a time.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from heapq import heapify, heapreplace
from math import ceil

from benchmarks import command, servers, table

#: Tasks that a simulation follows, at least, and those at its beginning that count for nothing.
FOLLOWED = 20_000
#: The longest that 95 of 100 tasks may wait, in seconds.
PATIENCE = 1.0
#: Nothing is planned to be busier than this.
BUSY = 0.8
FACTORS = (1, 10, 100, 1000)


@dataclass(frozen=True)
class Costs:
    """Seconds of one task."""

    #: For which it keeps a child of a worker, with all that is done about it.
    slot: float
    #: CPU of workers, Redis and PostgreSQL. Redis does one thing at a time.
    worker: float
    redis: float
    postgres: float
    #: From its publication to its start where nothing else is done.
    hop: float


@dataclass(frozen=True)
class Waits:
    """Seconds from a task's publication to its start."""

    mean: float
    most: float  # 95 of 100 wait no longer

    @classmethod
    def of(cls, waits: Sequence[float]) -> "Waits":
        ordered = sorted(waits)
        return cls(sum(ordered) / len(ordered), ordered[int(0.95 * len(ordered))])


# --- The model -----------------------------------------------------------------------------------
def station(
    arrivals: Sequence[float], services: Sequence[float], places: int
) -> list[tuple[float, float]]:
    """When each begins and ends that comes to a queue before so many places, in its order."""
    free = [0.0] * places
    heapify(free)
    served = []
    for arrival, service in zip(arrivals, services, strict=True):
        begin = max(arrival, free[0])
        heapreplace(free, begin + service)
        served.append((begin, begin + service))
    return served


def simulate(costs: Costs, rate: float, slots: int, *, seed: int = 1) -> Waits:
    """Tasks that come at random, so many a second, through Redis and then to the slots.

    A slot's service varies as much as half of it: some of it is fixed, some waits for others.
    """
    chance = random.Random(seed)  # noqa: S311
    count, moment = FOLLOWED * 2, 0.0
    arrivals = [moment := moment + chance.expovariate(rate) for _ in range(count)]
    broker = station(arrivals, [costs.redis] * count, 1)
    taken = [end for _, end in broker]
    varying = [costs.slot * (0.5 + chance.expovariate(2)) for _ in range(count)]
    begun = [begin for begin, _ in station(taken, varying, slots)]
    waits = [begin - arrival + costs.hop for begin, arrival in zip(begun, arrivals, strict=True)]
    return Waits.of(waits[FOLLOWED:])


def slots_for(costs: Costs, rate: float) -> int:
    """The fewest slots with which 95 of 100 tasks wait no longer than PATIENCE."""
    least = max(1, ceil(rate * costs.slot / BUSY))
    most = least * 2 + 2
    while least < most:
        middle = (least + most) // 2
        if simulate(costs, rate, middle).most <= PATIENCE:
            most = middle
        else:
            least = middle + 1
    return least


# --- What is measured ----------------------------------------------------------------------------
def calibrate(options: argparse.Namespace, running: servers.Processes) -> tuple[Costs, float]:
    """What a task costs, and how many a worker does a second."""
    from benchmarks import workers

    workers.forget()
    workers.publish(options.tasks, options.task_ms / 1e3)
    drained = workers.drain(running, options.tasks, 1)
    cpu = drained.cpu
    return (
        Costs(
            slot=workers.CONCURRENCY / drained.rate,
            worker=cpu["worker"],
            redis=cpu["Redis"],
            postgres=cpu["Postgres"],
            hop=observe(options, running, drained.rate / 20).mean,
        ),
        drained.rate,
    )


def observe(options: argparse.Namespace, running: servers.Processes, rate: float) -> Waits:
    """How long tasks waited that came at random, so many a second."""
    from benchmarks import workers

    workers.forget()
    with workers.workers(running, 1) as started, closing(servers.connect()) as connection:
        workers.publish(1, 0)
        ready = "it takes tasks"
        started[0].wait_until(lambda: workers.done(connection) == 1, ready, seconds=120)
        workers.forget()
        count = workers.publish_at_random(rate, options.seconds, options.task_ms / 1e3)
        done = "all is done"
        started[0].wait_until(lambda: workers.done(connection) >= count, done, seconds=600)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT extract(epoch FROM started_at - created_at)::float8 "
                "FROM task_manager_taskexecution WHERE celery_name = %s",
                [workers.TASK],
            )
            return Waits.of([max(0.0, row[0]) for row in cursor.fetchall()])


# --- What is said --------------------------------------------------------------------------------
def main() -> None:
    parser = command.parser("simulation", __doc__ or "", {})
    parser.add_argument("--tasks", type=int, default=3000, help="to calibrate with (3000)")
    parser.add_argument("--task-ms", type=float, default=20, help="that a task waits (20)")
    parser.add_argument("--seconds", type=float, default=30, help="of a random load (30)")
    parser.add_argument("--load", type=float, default=0.7, help="of what a worker can (0.7)")
    parser.add_argument("--cores", type=int, default=2, help="of a host (2)")
    options = parser.parse_args()
    command.run(options, lambda running: report(options, running), aws_endpoint="")


def report(options: argparse.Namespace, running: servers.Processes) -> Iterator[str]:
    from benchmarks.workers import CONCURRENCY

    costs, most = calibrate(options, running)
    rate = most * options.load
    seen, simulated = observe(options, running, rate), simulate(costs, rate, CONCURRENCY)
    yield (
        f"A task that waits {options.task_ms:g} ms keeps a child for {costs.slot * 1e3:.1f} ms, "
        f"after {costs.hop * 1e3:.1f} to get there. CPU: {costs.worker * 1e3:.2f} ms in "
        f"the worker, {costs.redis * 1e3:.2f} in Redis, {costs.postgres * 1e3:.2f} in PostgreSQL. "
        f"One worker of {CONCURRENCY} does {most:.0f} a second."
    )
    yield table.markdown(
        ("wait", "measured (ms)", "simulated (ms)", "simulated / measured"),
        [
            _compared("mean", seen.mean, simulated.mean),
            _compared("95 of 100 at most", seen.most, simulated.most),
        ],
        texts={"wait"},
    )
    yield f"At {rate:.0f} tasks a second, {options.load:.0%} of that, which came at random."
    yield table.markdown(HEADINGS, [row(costs, rate * factor, options.cores) for factor in FACTORS])


HEADINGS = (
    "tasks a second",
    "workers",
    "95 of 100 wait at most (ms)",
    "hosts for workers",
    "Redis busy",
    "PostgreSQL, cores busy",
)


def _compared(name: str, seen: float, simulated: float) -> tuple[str, str, str, str]:
    return name, f"{seen * 1e3:.0f}", f"{simulated * 1e3:.0f}", f"{simulated / seen:.2f}"


def row(costs: Costs, rate: float, cores: int) -> list[str]:
    """What this load needs. A Redis busier than 1 is no Redis: it must be several."""
    from benchmarks.workers import CONCURRENCY

    redis = rate * costs.redis
    shares = max(1, ceil(redis / BUSY))  # each with a part of the queues
    slots = slots_for(costs, rate / shares)
    waits = simulate(costs, rate / shares, slots)
    workers = ceil(slots * shares / CONCURRENCY)
    hosts = ceil(rate * costs.worker / (BUSY * cores))
    return [
        f"{rate:,.0f}",
        f"{workers:,}",
        f"{waits.most * 1e3:.0f}",
        f"{hosts:,.0f}",
        f"{redis:.2f} of 1" + (f", so {shares} of them" if shares > 1 else ""),
        f"{rate * costs.postgres:.1f}",
    ]


if __name__ == "__main__":
    main()
