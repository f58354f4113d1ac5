"""The listings with their filters, statistics, the state of the sync, and setting it off."""

import csv
from collections import Counter
from io import StringIO
from threading import BoundedSemaphore
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from marketplace import csv_export
from task_manager.models import OutboxTask
from telemetry.models import SyncState
from telemetry.services.holding import chain_hold, chain_release
from telemetry.services.merge import ott_merge
from telemetry.services.runs import CHAIN
from telemetry.tests.telling import HOLDER, name_told, stored, told

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

RECORDS = [
    name_told(1, "2026-11-19 23:59:59", "Canal Uno"),
    told(2, "2026-11-20 00:00:00", dataDuration=10),
    told(3, "2026-11-20 10:30:00", dataDuration=20, subscriberCode="S-2", whoisCountry="PE"),
    told(4, "2026-11-20 10:40:00", dataDuration=None, deviceId="D-2"),
    told(5, "2026-11-21 10:50:00", dataDuration=40, dataId=2, dataServiceId=12),
    name_told(6, "2026-11-21 11:00:00", "Canal Dos", dataId=2),
    told(7, "2026-11-22 11:00:00", actionId=3, dataId=None),
]


@pytest.fixture
def api(client_of, callers) -> Any:
    stored(*RECORDS)
    ott_merge(holder=HOLDER)
    chain_release(HOLDER)
    return client_of(callers["staff"])


def ids(response: Any) -> list[int]:
    assert response.status_code == 200, response.text
    return [row["record_id"] for row in response.json()["results"]]


# --- Listings ---
@pytest.mark.parametrize(
    ("query", "records", "merged"),
    [
        ({}, [7, 6, 5, 4, 3, 2, 1], [5, 4, 3, 2]),
        ({"date_from": "2026-11-21"}, [7, 6, 5], [5]),
        ({"date_to": "2026-11-20"}, [4, 3, 2, 1], [4, 3, 2]),
        ({"date_from": "2026-11-20", "date_to": "2026-11-20"}, [4, 3, 2], [4, 3, 2]),
        ({"hour": 10}, [5, 4, 3], [5, 4, 3]),
        ({"hour": 0}, [2], [2]),
        ({"subscriber": "S-2"}, [3], [3]),
        ({"device": "D-2"}, [4], [4]),
        ({"service": 12}, [5], [5]),
        ({"country": "PE", "hour": 10}, [3], [3]),
    ],
)
def test_a_filter_leaves_what_it_says(api, query, records, merged):
    assert ids(api.get("/api/telemetry/records/", query)) == records
    assert ids(api.get("/api/telemetry/merged/", query)) == merged


def test_records_are_filtered_by_action_and_views_by_channel(api):
    assert ids(api.get("/api/telemetry/records/", {"action": 7})) == [6, 1]
    assert ids(api.get("/api/telemetry/merged/", {"channel": "Canal Dos"})) == [5]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"date_from": "21/11/2026"}, "Use a date, such as 2026-11-30."),
        ({"date_to": "2026-02-30"}, "Use a date, such as 2026-11-30."),
        ({"hour": 24}, "Use a whole number from 0 to 23."),
        ({"hour": "ten"}, "Use a whole number from 0 to 23."),
        ({"service": 2**63}, "Use a whole number."),
        ({"service": "1.5"}, "Use a whole number."),
    ],
)
@pytest.mark.parametrize("path", ["records/", "merged/", "records/export/", "statistics/"])
def test_a_wrong_filter_says_what_would_be_right(api, path, query, message):
    response = api.get(f"/api/telemetry/{path}", query)
    assert response.status_code == 400
    (name,) = query
    assert response.json()["error"]["fields"] == {name: [message]}


def test_a_record_is_shown_with_all_that_is_known(api):
    shown = api.get("/api/telemetry/records/3/").json()
    expected = {
        "timestamp": "2026-11-20T10:30:00Z",
        "date": "2026-11-20",
        "hour": 10,
        "ip": "192.0.2.7",
    }
    assert expected.items() <= shown.items()
    assert api.get("/api/telemetry/merged/3/").json()["data_name"] == "Canal Uno"
    assert api.get("/api/telemetry/merged/1/").status_code == 404


# --- Export ---
@pytest.mark.parametrize("what", ["records", "merged"])
@pytest.mark.parametrize("query", [{}, {"hour": 10}, {"subscriber": "nobody"}])
def test_an_export_has_what_the_listing_has(api, what, query):
    listed = api.get(f"/api/telemetry/{what}/", query).json()["results"]
    response = api.get(f"/api/telemetry/{what}/export/", query)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in response.headers["Content-Disposition"]
    rows = [*csv.DictReader(StringIO(response.getvalue().decode()))]
    assert [int(row["record_id"]) for row in rows] == [row["record_id"] for row in reversed(listed)]
    shown = {True: "true", False: "false", None: ""}
    for row, other in zip(rows, reversed(listed), strict=True):
        assert row == {
            key: shown[value] if isinstance(value, bool | None) else str(value)
            for key, value in other.items()
        }


def test_the_quarantine_is_exported(api):
    stored('=1+1, "quoted"\n')
    text = api.get("/api/telemetry/quarantine/export/").getvalue().decode()
    (row,) = csv.DictReader(StringIO(text))
    assert (row["reason"], row["record_id"]) == ("is not an object", "")
    assert row["payload"] == '"=1+1, \\"quoted\\"\\n"'


@pytest.mark.parametrize("way", ["read", "fails"])
def test_an_export_has_its_place_until_it_ends(callers, monkeypatch, way):
    monkeypatch.setattr(csv_export, "_places", BoundedSemaphore(1))
    stored(*RECORDS)
    path = "/api/telemetry/records/export/"
    api = APIClient()  # it does not read what nobody asks it for
    api.force_authenticate(callers["staff"])
    if way == "fails":
        with monkeypatch.context() as broken:
            broken.setattr(csv_export, "_cell", lambda value: value / 0)
            with pytest.raises(ZeroDivisionError):
                api.get(path)
    else:
        response = api.get(path)
        refused = api.get(path)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
        assert refused.json()["error"]["code"] == "throttled"
        assert response.getvalue()
    assert api.get(path).getvalue().startswith(b"record_id,")


# --- Statistics ---
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"group_by": "channel"}, [("Canal Uno", 3, 30), ("Canal Dos", 1, 40)]),
        ({}, [("Canal Uno", 3, 30), ("Canal Dos", 1, 40)]),
        ({"group_by": "channel", "by": "duration"}, [("Canal Dos", 1, 40), ("Canal Uno", 3, 30)]),
        ({"group_by": "channel", "top": 1}, [("Canal Uno", 3, 30)]),
        ({"group_by": "channel", "by": "duration", "top": 1}, [("Canal Dos", 1, 40)]),
        ({"group_by": "hour"}, [("0", 1, 10), ("10", 3, 60)]),
        ({"group_by": "hour", "top": 1}, [("10", 3, 60)]),
        ({"group_by": "day"}, [("2026-11-20", 3, 30), ("2026-11-21", 1, 40)]),
        ({"group_by": "country"}, [("MX", 3, 50), ("PE", 1, 20)]),
        ({"group_by": "country", "date_to": "2026-11-20"}, [("MX", 2, 10), ("PE", 1, 20)]),
        ({"group_by": "day", "channel": "nothing"}, []),
    ],
)
def test_statistics_count_views_and_their_seconds(api, query, expected):
    told = api.get("/api/telemetry/statistics/", query).json()
    rows = [(row["key"], row["views"], row["duration"]) for row in told["results"]]
    assert rows == expected
    if "top" not in query:
        total = told["total"]
        sums = sum(views for _, views, _ in rows), sum(seconds for *_, seconds in rows)
        assert (total["views"], total["duration"]) == sums


def test_statistics_agree_with_the_listing(api):
    listed = api.get("/api/telemetry/merged/").json()["results"]
    told = api.get("/api/telemetry/statistics/", {"group_by": "hour"}).json()["results"]
    assert Counter(str(row["hour"]) for row in listed) == {row["key"]: row["views"] for row in told}


@pytest.mark.parametrize(
    "query", [{"group_by": "age"}, {"by": "price"}, {"top": 0}, {"top": 1001}, {"top": "all"}]
)
def test_wrong_statistics_are_refused(api, query):
    response = api.get("/api/telemetry/statistics/", query)
    assert response.status_code == 400
    assert response.json()["error"]["fields"].keys() == query.keys()


# --- The sync ---
def test_the_state_before_the_first_sync(client_of, callers):
    state = client_of(callers["staff"]).get("/api/telemetry/state/").json()
    assert (state["highest_id"], state["lag_seconds"], state["running"]) == (0, None, False)
    assert state["newest_record_at"] is None


def test_the_state_says_how_far_it_is(api):
    stored("no record", told(9))
    SyncState.objects.update(complete_at=timezone.now(), error="PanAccessAway: no answer")
    state = api.get("/api/telemetry/state/").json()
    told_of = ("highest_id", "quarantined", "pages_to_merge", "running", "error", "configured")
    assert [state[name] for name in told_of] == [9, 1, 1, True, "PanAccessAway: no answer", False]
    assert state["newest_record_at"] == "2026-11-22T11:00:00Z"
    assert state["lag_seconds"] >= 0


def test_staff_set_it_off(api, callers, settings):
    settings.PANACCESS_URL = "http://127.0.0.1:9/"
    response = api.post("/api/telemetry/run/")
    assert response.status_code == 202
    promised = OutboxTask.objects.get()
    assert (promised.task_id, promised.celery_name) == (response.json()["task_id"], CHAIN)


def test_it_is_not_set_off_where_it_runs_or_cannot(api, settings):
    refused = api.post("/api/telemetry/run/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_configured")
    settings.PANACCESS_URL = "http://127.0.0.1:9/"
    chain_hold("another")
    refused = api.post("/api/telemetry/run/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "at_work")
    assert not OutboxTask.objects.exists()
