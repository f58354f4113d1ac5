"""What the system's state says of the sync."""

from datetime import datetime
from typing import Any

from telemetry import selectors


def from_postgresql() -> dict[str, Any]:
    state = selectors.sync_state()
    return {
        "telemetry": {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in state.items()
        }
    }


SOURCES = {"postgresql": from_postgresql}
