"""What the system's state says of the promos' outbox."""

from typing import Any

from promotions import selectors


def from_postgresql() -> dict[str, Any]:
    """Notifications that wait for SNS (PENDING) or for their delivery (PUBLISHED)."""
    return {"promo_notifications": selectors.outbox()}


SOURCES = {"postgresql": from_postgresql}
