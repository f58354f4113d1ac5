"""What may keep sync and merge from being done. The docstring is the message."""

from marketplace.exceptions import Refusal


class TelemetryError(Refusal):
    """It cannot be done now."""


class NotHeld(TelemetryError):
    """Sync and merge are at work already."""

    code = "at_work"


class NotConfigured(TelemetryError):
    """PANACCESS_URL is not set."""

    code = "not_configured"
