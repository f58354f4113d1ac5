"""PanAccess' records as the tests write them down."""

from collections.abc import Iterable
from typing import Any

from telemetry.services.holding import chain_hold
from telemetry.services.records import parsed
from telemetry.services.storing import Stored, page_store

HOLDER = "the-test"


def told(record_id: Any, timestamp: Any = "2026-11-20 10:30:00", **fields: Any) -> dict[str, Any]:
    """A record with all the fields that PanAccess has; any may be given another value."""
    return {
        "recordId": record_id,
        "subscriberCode": "S-0001",
        "deviceId": "D-0001",
        "smartcardId": "",
        "anonymized": False,
        "actionId": 8,
        "actionKey": "watched",
        "date": str(timestamp)[:10],
        "timestamp": timestamp,
        "manual": None,
        "reasonId": 1,
        "reasonKey": "",
        "dataNetId": None,
        "dataTsId": None,
        "dataServiceId": 11,
        "dataId": 1,
        "dataName": None,
        "dataPrice": None,
        "dataDuration": 60,
        "whoisCountry": "MX",
        "whoisIsp": "Red Ñandú",
        "ipId": 5,
        "ip": "192.0.2.7",
        "profileId": None,
        "created": timestamp,
        **fields,
    }


def name_told(record_id: int, timestamp: str, name: str, **fields: Any) -> dict[str, Any]:
    return told(record_id, timestamp, actionId=7, dataName=name, **fields)


def stored(*entries: Any, next_offset: int = 0) -> Stored:
    """Store them as one page of the list."""
    chain_hold(HOLDER)
    return page_store(parsed(entries), holder=HOLDER, next_offset=next_offset)


def at(second: int) -> str:
    """A time, by its seconds past some hour."""
    return f"2026-11-20 10:{second // 60:02}:{second % 60:02}"


def pages(entries: Iterable[Any], size: int) -> Iterable[list[Any]]:
    rows = [*entries]
    return [rows[start : start + size] for start in range(0, len(rows), size)]
