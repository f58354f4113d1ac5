"""What Prometheus is told of the promos' outbox."""

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from marketplace.metrics import PREFIX
from promotions import selectors


def from_postgresql() -> Iterator[Metric]:
    outbox = GaugeMetricFamily(
        f"{PREFIX}promo_notifications",
        "Notifications of promos that wait for SNS (PENDING) or for their delivery (PUBLISHED).",
        labels=["status"],
    )
    for status, count in selectors.outbox().items():
        outbox.add_metric([status], count)
    yield outbox


SOURCES = {"postgresql": from_postgresql}
