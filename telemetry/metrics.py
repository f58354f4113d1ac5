"""What Prometheus is told of the sync."""

from collections.abc import Iterator

from django.conf import settings
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from marketplace.metrics import PREFIX
from telemetry import selectors


def from_postgresql() -> Iterator[Metric]:
    """Nothing where no telemetry is synced."""
    if not settings.PANACCESS_URL:
        return
    state = selectors.sync_state()
    state["period"] = settings.CELERY_BEAT_SCHEDULE["sync-and-merge-telemetry"]["schedule"]
    told = {
        "highest_id": ("The highest record that is stored or in quarantine.", "highest_id"),
        "quarantined": ("Records of PanAccess that could not be stored.", "quarantined"),
        "pages_to_merge": ("Pages that are stored and not merged yet.", "pages_to_merge"),
        "failing": ("1: the last sync ended with an error.", "error"),
        "period_seconds": ("From one sync to the next.", "period"),
        "lag_seconds": ("Since when PanAccess may have more than is stored.", "lag_seconds"),
    }
    for name, (help_text, key) in told.items():
        value = state[key]
        if value is not None:  # the lag, before the first sync was complete
            number = float(bool(value)) if isinstance(value, str) else value
            yield GaugeMetricFamily(f"{PREFIX}telemetry_{name}", help_text, number)


SOURCES = {"postgresql": from_postgresql}
