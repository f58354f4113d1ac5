"""Beat's schedule, as RedBeat keeps it in Redis."""

from typing import Any

import redis
from celery import current_app
from redbeat.schedulers import ensure_conf


def due_times(client: "redis.Redis") -> dict[str, float]:
    """When beat is to publish each entry next (epoch seconds); none before a beat ever led."""
    conf = ensure_conf(current_app)
    entries: Any = client.zrange(conf.schedule_key, 0, -1, withscores=True)
    # A score below 0 is an entry that never comes.
    return {
        key.decode().removeprefix(conf.key_prefix): due_at for key, due_at in entries if due_at >= 0
    }
