"""What is broken: each drill breaks one thing, and mends it unless it mends itself."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.arena import SENTINEL, Arena, Buyers, Counts
from tests.stack.stack import run, wait_until


@dataclass(frozen=True)
class Drill:
    """What breaks, and by what sign one sees that work goes on."""

    text: str
    fault: Callable[[Arena], None]
    #: Grows with the work that the fault disturbs.
    sign: Callable[[Counts, Buyers], int] = lambda counts, _: counts["rows"] + counts["deliveries"]
    #: How the tasks are published: what Redis itself may lose must be promised.
    way: str = "both"
    #: Of the quick ones, which the stack tests run.
    is_quick: bool = False
    #: An overlay that it needs.
    overlay: str = ""


def _child(arena: Arena) -> None:
    """A child of a worker's pool, in the midst of its work."""
    worker = arena.pid(arena.names("worker")[0])
    children = arena.on_host("pgrep", "--parent", str(worker)).split()
    arena.on_host("kill", "-KILL", children[-1])


def _worker(arena: Arena) -> None:
    arena.kill(arena.names("worker")[0])


def _beat(arena: Arena) -> None:
    arena.kill(arena.leader())


def _web(arena: Arena) -> None:
    arena.kill(arena.names("web")[0])


def _frozen_worker(arena: Arena) -> None:
    """Twice as long as a lease lasts."""
    name = arena.names("worker")[0]
    run("docker", "pause", name)
    time.sleep(60)
    run("docker", "unpause", name)


def _redis(arena: Arena) -> None:
    arena.kill(arena.names("redis")[0])
    arena.wait_until_healthy()


def _master(arena: Arena) -> None:
    """It stays away until another one is the master, and comes back as a replica of that."""
    service = arena.master()
    assert service
    name = arena.names(service)[0]
    run("docker", "update", "--restart=no", name)
    arena.kill(name)
    wait_until(arena.master, seconds=60, what="a replica is the master")
    run("docker", "update", "--restart=unless-stopped", name)
    time.sleep(5)
    run("docker", "start", name)
    arena.wait_until_healthy()


def _frozen_master(arena: Arena) -> None:
    """Another one takes its place, and it goes on as if it still were the master."""
    service = arena.master()
    assert service
    name = arena.names(service)[0]
    run("docker", "pause", name)
    time.sleep(30)
    run("docker", "unpause", name)


def _redis_loses_a_second(arena: Arena) -> None:
    """As when the host loses power: what was written in the last second never reached the disk.

    The workers stand still meanwhile, so that what was published then waits in the queue.
    """
    workers = arena.names("worker")
    run("docker", "pause", *workers)
    disk = arena.names("disk")[0]
    find = "ls -t /data/appendonlydir/*.incr.aof | head -1"
    log = run("docker", "exec", disk, "sh", "-c", find).stdout.strip()
    size = run("docker", "exec", disk, "stat", "-c", "%s", log).stdout.strip()
    time.sleep(1)
    # Stopped before it is killed, so that nothing starts it before the log is cut.
    name = arena.names("redis")[0]
    run("docker", "update", "--restart=no", name)
    arena.kill(name)
    wait_until(lambda: not arena.inspect(name)["State"]["Running"], seconds=10, what="it is dead")
    cut = run("docker", "exec", disk, "truncate", "-s", size, log)
    assert cut.returncode == 0, cut.stderr
    run("docker", "update", "--restart=unless-stopped", name)
    run("docker", "start", name)
    run("docker", "unpause", *workers)
    arena.wait_until_healthy()


def _postgres(arena: Arena) -> None:
    arena.kill(arena.names("postgres")[0])
    arena.wait_until_healthy()


def _aws_away(arena: Arena) -> None:
    """It takes connections and says nothing."""
    name = arena.names("aws")[0]
    run("docker", "pause", name)
    time.sleep(120)
    run("docker", "unpause", name)


def _cut_network(arena: Arena) -> None:
    """No packet goes between a worker and Redis, and nobody says so."""
    pid = arena.pid(arena.names("worker")[0])
    networks = arena.inspect(arena.names("redis")[0])["NetworkSettings"]["Networks"].values()
    rules = [f"OUTPUT --destination {network['IPAddress']} --jump DROP" for network in networks]
    inside = ("nsenter", "--target", str(pid), "--net", "--")
    for rule in rules:
        arena.on_host(*inside, "iptables", "--insert", *rule.split())
    time.sleep(60)
    for rule in rules:
        arena.on_host(*inside, "iptables", "--delete", *rule.split())


def _redis_without_memory(arena: Arena) -> None:
    """It takes no write for half a minute (`noeviction`)."""
    fill = (
        'dd if=/dev/zero bs=1M count=1 2>/dev/null | tr "\\0" x > /tmp/ballast; n=0; '
        "until redis-cli -x SETRANGE ballast $((n * 1048576)) < /tmp/ballast | grep -q OOM; "
        "do n=$((n + 1)); done; rm /tmp/ballast; echo $n"
    )
    filled = arena.stack.execute("redis", "sh", "-c", fill)
    assert int(filled) > 10, f"Redis took {filled} MB"
    time.sleep(30)
    arena.stack.execute("redis", "redis-cli", "UNLINK", "ballast")


def _redis_without_disk(arena: Arena) -> None:
    """Its log cannot be written for half a minute."""
    disk = arena.names("disk")[0]
    fill = "cat /dev/zero > /data/ballast; stat -c %s /data/ballast"
    run("docker", "exec", disk, "sh", "-c", fill)
    time.sleep(30)
    freed = run("docker", "exec", disk, "rm", "/data/ballast")
    assert freed.returncode == 0, freed.stderr


def _everything(arena: Arena) -> None:
    arena.stack.compose("kill")
    arena.stack.compose("up", "--detach", "--wait")


def _flood(arena: Arena) -> None:
    """A publisher without an end: a minute of messages of a kilobyte."""
    counts = arena.flood(60)
    print(
        f"  {counts['taken']} published, {counts['refused']} refused", file=sys.stderr, flush=True
    )


def _ticks(counts: Counts, _: Buyers) -> int:
    return counts["ticks"]


def _answers(_: Counts, buyers: Buyers) -> int:
    return buyers.answers


DRILLS = {
    "child": Drill("kill -9 of a pool child", _child, is_quick=True),
    "worker": Drill("kill -9 of a worker", _worker, is_quick=True),
    "beat": Drill("kill -9 of the beat that ticks", _beat, _ticks),
    "web": Drill("kill -9 of web", _web, _answers, is_quick=True),
    "frozen-worker": Drill("SIGSTOP of a worker for 60 s, two leases", _frozen_worker),
    "redis": Drill("kill -9 of Redis", _redis, way="enqueue", is_quick=True),
    "redis-second": Drill(
        "kill -9 of Redis and loss of its last second", _redis_loses_a_second, way="enqueue"
    ),
    "postgres": Drill("kill -9 of PostgreSQL", _postgres, is_quick=True),
    "aws": Drill("SNS and SQS away for 120 s", _aws_away, lambda counts, _: counts["deliveries"]),
    "network": Drill("no network between a worker and Redis for 60 s", _cut_network),
    "redis-memory": Drill("Redis out of memory for 30 s", _redis_without_memory),
    "redis-disk": Drill("Redis' disk full for 30 s", _redis_without_disk),
    "master": Drill(
        "kill -9 of the master, with Sentinel", _master, way="enqueue", overlay=SENTINEL
    ),
    "frozen-master": Drill(
        "SIGSTOP of the master for 30 s, with Sentinel",
        _frozen_master,
        way="enqueue",
        overlay=SENTINEL,
    ),
    "everything": Drill("kill -9 of everything at once", _everything, way="enqueue"),
    "flood": Drill("a publisher without end for 60 s", _flood),
}
