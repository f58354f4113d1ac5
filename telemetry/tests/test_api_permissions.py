"""Who may do what: one table of every endpoint and caller."""

from typing import Any

import pytest

from telemetry.models import MergedTelemetricOTT, QuarantinedRecord, TelemetryRecordEntry
from telemetry.services.holding import chain_release
from telemetry.services.merge import ott_merge
from telemetry.tests.telling import HOLDER, stored, told
from tests.world import schema

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

#: The API asks whether somebody is staff, and not for permissions, so a superuser may no more.
CALLERS = ("anonymous", "other", "owner", "staff", "superuser")
READ = (401, 403, 403, 200, 200)
#: Of anybody else who is signed in there is nothing here: it is all about other people.
TABLE: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/api/telemetry/records/"): READ,
    ("GET", "/api/telemetry/records/{record_id}/"): READ,
    ("GET", "/api/telemetry/records/export/"): READ,
    ("GET", "/api/telemetry/merged/"): READ,
    ("GET", "/api/telemetry/merged/{record_id}/"): READ,
    ("GET", "/api/telemetry/merged/export/"): READ,
    ("GET", "/api/telemetry/quarantine/"): READ,
    ("GET", "/api/telemetry/quarantine/{id}/"): READ,
    ("GET", "/api/telemetry/quarantine/export/"): READ,
    ("GET", "/api/telemetry/statistics/"): READ,
    ("GET", "/api/telemetry/state/"): READ,
    ("POST", "/api/telemetry/run/"): (401, 403, 403, 202, 202),
}


@pytest.fixture
def rows(db: None) -> dict[str, int]:
    stored(told(5), "no record")
    ott_merge(holder=HOLDER)
    return {"record_id": 5, "id": QuarantinedRecord.objects.get().pk}


def counts() -> list[int]:
    models: list[Any] = [TelemetryRecordEntry, MergedTelemetricOTT, QuarantinedRecord]
    return [model.objects.count() for model in models]


@pytest.mark.parametrize(
    ("method", "path", "caller", "status"),
    [
        (*operation, caller, status)
        for operation, statuses in TABLE.items()
        for caller, status in zip(CALLERS, statuses, strict=True)
    ],
)
def test_who_may_do_what(client_of, callers, rows, settings, method, path, caller, status):
    settings.PANACCESS_URL = "http://127.0.0.1:9/"
    chain_release(HOLDER)
    response = client_of(callers[caller]).generic(method, path.format(**rows))
    assert response.status_code == status
    if status >= 400:
        assert set(response.json()["error"]) == {"code", "message"}
    assert counts() == [1, 1, 1]


@pytest.mark.parametrize("path", sorted({path for _, path in TABLE}))
def test_every_other_method_is_405_for_staff(client_of, callers, rows, path):
    allowed = {method for method, known in TABLE if known == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        response = client_of(callers["staff"]).generic(method, path.format(**rows))
        assert response.status_code == 405, method
    assert counts() == [1, 1, 1]


def test_the_table_has_every_operation_of_the_schema():
    operations = {
        (method.upper(), path)
        for path, methods in schema()["paths"].items()
        for method in methods
        if path.startswith("/api/telemetry/")
    }
    assert operations == TABLE.keys()
