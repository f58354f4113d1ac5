"""`/metrics`, in Prometheus' format: what PostgreSQL and Redis know at the moment of the scrape.

No process counts anything, so every web process gives the same answer, and a restart loses
nothing. An app adds its own by a module `metrics` whose `SOURCES` says what is read from where.
"""

import logging
import time
from collections.abc import Iterator

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from marketplace.sources import sources

logger = logging.getLogger(__name__)

PREFIX = "flash_promos_"


class Scrape(Collector):
    """A source that does not answer takes only its own metrics with it."""

    def collect(self) -> Iterator[Metric]:
        began = time.monotonic()
        up = GaugeMetricFamily(
            f"{PREFIX}source_up", "1: the source answered this scrape.", labels=["source"]
        )
        for source, reads in sources("metrics").items():
            try:
                for read in reads:
                    yield from list(read())
            except Exception as error:  # whatever is wrong with it, the others have theirs to say
                logger.warning("No metrics of %s: %s: %s", source, type(error).__name__, error)
                up.add_metric([source], 0)
            else:
                up.add_metric([source], 1)
        yield up
        yield GaugeMetricFamily(
            f"{PREFIX}scrape_seconds", "How long this scrape took.", time.monotonic() - began
        )


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """For whoever has METRICS_TOKEN, and for staff who are signed in."""
    if not _has_token(request):
        try:
            user = request.user
            status = 401 if not user.is_authenticated else 200 if user.is_staff else 403
        except Error:  # the sessions' database is away; a token needs none
            status = 503
        if status != 200:
            return _refusal(status)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry()
    registry.register(Scrape())
    return HttpResponse(encode(registry), content_type=content_type)


def _has_token(request: HttpRequest) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (
        bool(settings.METRICS_TOKEN)
        and scheme.lower() == "bearer"
        and constant_time_compare(token, settings.METRICS_TOKEN)
    )


def _refusal(status: int) -> HttpResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return HttpResponse(status=status, content_type="text/plain", headers=headers)
