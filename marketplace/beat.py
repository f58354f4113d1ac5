"""The scheduler: RedBeat, which keeps the schedule in Redis and lets one beat of many tick."""

from typing import Any

from redbeat import RedBeatScheduler

from marketplace import liveness


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat that shows that it ticks, at most `beat_max_loop_interval` apart."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        liveness.touch()
        delay: float = super().tick(*args, **kwargs)
        return delay
