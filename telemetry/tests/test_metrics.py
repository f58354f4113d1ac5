"""What Prometheus and `scripts/status` are told of the sync."""

from datetime import timedelta

import pytest
from django.utils import timezone

from telemetry import metrics, state
from telemetry.models import SyncState
from telemetry.tests.telling import stored, told

pytestmark = pytest.mark.django_db


@pytest.fixture
def configured(settings) -> None:
    settings.PANACCESS_URL = "http://127.0.0.1:9/"


def measured() -> dict[str, float]:
    return {
        sample.name.removeprefix("flash_promos_telemetry_"): sample.value
        for metric in metrics.from_postgresql()
        for sample in metric.samples
    }


def test_nothing_is_told_where_no_telemetry_is_synced(settings):
    settings.PANACCESS_URL = ""
    assert measured() == {}
    assert state.from_postgresql()["telemetry"]["configured"] is False


@pytest.mark.usefixtures("configured")
def test_before_the_first_sync_there_is_no_lag():
    assert measured() == {
        "highest_id": 0,
        "quarantined": 0,
        "pages_to_merge": 0,
        "failing": 0,
        "period_seconds": 120,
    }


@pytest.mark.usefixtures("configured")
def test_how_far_it_is():
    stored(told(5), "no record")
    an_hour_ago = timezone.now() - timedelta(hours=1)
    SyncState.objects.update(complete_at=an_hour_ago, error="PanAccessAway: no answer")
    found = measured()
    del found["period_seconds"]
    assert 3600 <= found.pop("lag_seconds") < 3700
    assert found == {"highest_id": 5, "quarantined": 1, "pages_to_merge": 1, "failing": 1}
    told_of = state.from_postgresql()["telemetry"]
    assert told_of["complete_at"] == an_hour_ago.isoformat()
