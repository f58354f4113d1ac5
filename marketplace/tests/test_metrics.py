"""Who may read the metrics, and what is left of them when a source is away."""

import pytest
from django.contrib.auth.models import User
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from marketplace.celery import app
from marketplace.tests.test_health import closed_database, closed_redis_url

pytestmark = pytest.mark.django_db

TOKEN = "a-token-of-its-own"


@pytest.fixture(autouse=True)
def _token(settings):
    settings.METRICS_TOKEN = TOKEN


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def scrape(client) -> dict[str, dict[str, float]]:
    """By name of a metric, its values by the labels' values."""
    response = client.get("/metrics", headers=bearer(TOKEN))
    assert response.status_code == 200
    return {
        sample.name: {
            ",".join(s.labels.values()): s.value for s in family.samples if s.name == sample.name
        }
        for family in parse(response.text)
        for sample in family.samples
    }


# --- Who -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("another"),
        bearer(TOKEN + "x"),
        bearer("tökèn"),
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
    ],
)
def test_a_stranger_reads_nothing(client, headers):
    response = client.get("/metrics", headers=headers)
    assert (response.status_code, response.content) == (401, b"")
    assert response["www-authenticate"] == "Bearer"


def test_the_token_reads(client):
    response = client.get("/metrics", headers=bearer(TOKEN))
    assert response.status_code == 200
    assert response["content-type"].startswith("text/plain; version=0.0.4")
    assert "no-store" in response["cache-control"]


def test_staff_who_are_signed_in_read(admin_client):
    assert admin_client.get("/metrics").status_code == 200


def test_another_user_does_not(client):
    client.force_login(User.objects.create_user("ana"))
    assert client.get("/metrics").status_code == 403


def test_without_a_token_set_no_token_reads(client, admin_client, settings):
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers=bearer("")).status_code == 401
    assert admin_client.get("/metrics").status_code == 200


def test_nothing_is_written_there(client):
    assert client.post("/metrics", headers=bearer(TOKEN)).status_code == 405


# --- What ----------------------------------------------------------------------------------------
def test_openmetrics_is_spoken_too(client):
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = client.get("/metrics", headers=bearer(TOKEN) | accept)
    assert response["content-type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(response.text)  # type: ignore[no-untyped-call]
    assert "flash_promos_workers_alive" in {family.name for family in families}


def test_every_source_answers(client):
    metrics = scrape(client)
    assert metrics["flash_promos_source_up"] == {"broker": 1, "redis": 1, "postgresql": 1}
    assert metrics["flash_promos_scrape_seconds"][""] > 0


def test_without_postgresql_the_rest_comes(client):
    with closed_database():
        metrics = scrape(client)
    assert metrics["flash_promos_source_up"] == {"broker": 1, "redis": 1, "postgresql": 0}
    assert "flash_promos_queue_messages" in metrics
    assert "flash_promos_tasks_unfinished" not in metrics


def test_without_postgresql_staff_are_told_so(admin_client):
    with closed_database():
        assert admin_client.get("/metrics").status_code == 503


def test_without_redis_the_rest_comes(client, settings):
    settings.REDIS_URL = closed_redis_url()
    metrics = scrape(client)
    assert metrics["flash_promos_source_up"] == {"broker": 1, "redis": 0, "postgresql": 1}
    assert "flash_promos_tracking_lag_seconds" not in metrics
    assert "flash_promos_tasks_unfinished" in metrics


def test_without_the_broker_the_rest_comes(client):
    url = app.conf.broker_read_url
    app.conf.update(broker_read_url=closed_redis_url())
    try:
        metrics = scrape(client)
    finally:
        app.conf.update(broker_read_url=url)
    assert metrics["flash_promos_source_up"] == {"broker": 0, "redis": 1, "postgresql": 1}
    assert "flash_promos_queue_messages" not in metrics
