"""What PanAccess has beyond the highest record that we know, page by page.

PanAccess' list is asked by offsets, and they shift: old records go, late ones come in between. So
each page begins with records that we know already. One that begins with an unknown one has left
some out, and the place is looked for anew. How far we are is stored with each page, so that
whoever is interrupted goes on there.
"""

import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone

from marketplace.context import belonging_to, current
from telemetry.clients.panaccess import PanAccess, PanAccessError
from telemetry.exceptions import NotConfigured, NotHeld
from telemetry.models import SyncState
from telemetry.services.holding import chain_hold
from telemetry.services.records import Page, parsed
from telemetry.services.storing import Stored, page_store

logger = logging.getLogger(__name__)

#: Records a call: the most that PanAccess gives.
PAGE = 1000
#: Known records that a page begins with; late ones among them are found.
OVERLAP = 50
#: Records of a call that only looks where we are: one may be unreadable.
PROBE = 10
#: How often in a row the place is looked for before it is given up.
SEARCHES = 5
#: No list is longer.
MOST = 2**40
#: Seconds after which a run asks for no further page: the next one goes on. Below the tasks' soft
#: time limit by what a call with its retries takes.
SECONDS = 120.0
#: For which a thread may keep the other one waiting.
SWITCH_SECONDS = 0.0005


@dataclass
class Result:
    """What a sync did; `is_complete` is whether it came to the list's end."""

    highest_id_before: int
    highest_id_after: int
    pages: int = 0
    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    quarantined: int = 0
    is_complete: bool = False

    def add(self, page: int, stored: Stored) -> None:
        self.pages += 1
        self.fetched += page
        self.inserted += stored.inserted
        self.updated += stored.updated
        self.quarantined += stored.quarantined
        self.highest_id_after = stored.highest_id


def require_url() -> None:
    if not settings.PANACCESS_URL:
        raise NotConfigured


def telemetry_sync(*, holder: str) -> dict[str, Any]:
    """Store what is new. Raises TelemetryError, PanAccessError; what came before it is stored."""
    require_url()
    chain_hold(holder)
    began = timezone.now()
    SyncState.objects.update(started_at=began)
    state = SyncState.objects.get()
    result = Result(state.highest_id, state.highest_id)
    try:
        with PanAccess() as panaccess, _Listing(panaccess, holder) as listing, _taking_turns():
            listing.follow(state.next_offset, result)
    except NotHeld:
        raise
    except Exception as error:
        SyncState.objects.update(
            finished_at=timezone.now(), error=f"{type(error).__name__}: {error}"
        )
        raise
    ended = {"finished_at": timezone.now(), "error": ""}
    SyncState.objects.update(**ended, **({"complete_at": began} if result.is_complete else {}))
    logger.info(
        "Stored %d new records of %d fetched, up to %d%s",
        result.inserted,
        result.fetched,
        result.highest_id_after,
        "" if result.is_complete else "; there are more",
    )
    return asdict(result)


@contextmanager
def _taking_turns() -> Iterator[None]:
    """The thread that stores does not wait for 5 ms, Python's own interval, for the one that parses
    at each answer of PostgreSQL's."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class _Listing:
    """PanAccess' list, of which the next page is fetched while one is stored."""

    def __init__(self, panaccess: PanAccess, holder: str) -> None:
        self.panaccess, self.holder = panaccess, holder
        self._thread = ThreadPoolExecutor(1)
        self._context = asdict(current())

    def __enter__(self) -> "_Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def follow(self, next_offset: int, result: Result) -> None:
        """Store page after page, to the list's end or until the time is up."""
        deadline = time.monotonic() + SECONDS
        offset, searches = max(0, next_offset - OVERLAP), 0
        fetched = self._fetch(offset)
        while True:
            page, length = fetched.result()
            highest = result.highest_id_after
            goes_on = not offset or (bool(page.ids) and page.ids[0] <= highest)
            if goes_on:
                is_last = length < PAGE
                if not is_last:
                    fetched = self._fetch(offset + length - OVERLAP)
                stored = page_store(page, holder=self.holder, next_offset=offset + length)
                result.add(length, stored)
                if is_last:
                    result.is_complete = True
                    return
                offset += length - OVERLAP
                goes_on = stored.highest_id > highest
            searches = 0 if goes_on else searches + 1
            if searches > SEARCHES:
                raise PanAccessError(
                    f"getListOfTelemetryRecords: what comes after record {highest} cannot be found "
                    f"near offset {offset}; does the list keep its order?"
                )
            if not goes_on:
                offset = max(0, self._last_known(highest, offset) - OVERLAP)
                # It is asked for at any rate: else the next run would look for it again.
                fetched = self._fetch(offset)
            elif time.monotonic() > deadline:
                return

    def _fetch(self, offset: int, limit: int = PAGE) -> "Future[tuple[Page, int]]":
        """A page, and how many records PanAccess counts in it."""
        return self._thread.submit(self._page, offset, limit)

    def _page(self, offset: int, limit: int) -> tuple[Page, int]:
        with belonging_to(**self._context):
            entries = self.panaccess.telemetry_records(offset=offset, limit=limit)
            page = parsed(entries)
        if page.ids != sorted(page.ids):
            raise PanAccessError(
                f"getListOfTelemetryRecords: the records from offset {offset} on are not in the "
                "order of their recordId"
            )
        return page, len(entries)

    def _last_known(self, highest: int, guess: int) -> int:
        """The offset of the last record up to the highest, 0 when there is none.

        Found from the guess by steps that double, then by halves.
        """
        logger.info("Looking for record %d in the list, from offset %d on", highest, guess)
        step = PAGE
        if self._is_known(guess, highest):
            known = guess
            while self._is_known(known + step, highest):
                known, step = known + step, step * 2
                if known > MOST:
                    raise PanAccessError("getListOfTelemetryRecords: the list has no end")
            unknown = known + step
        else:
            known, unknown = guess - step, guess
            while known >= 0 and not self._is_known(known, highest):
                step *= 2
                known, unknown = known - step, known
            known = max(known, -1)
        while unknown - known > 1:
            middle = (known + unknown) // 2
            if self._is_known(middle, highest):
                known = middle
            else:
                unknown = middle
        return max(known, 0)

    def _is_known(self, offset: int, highest: int) -> bool:
        page, _ = self._fetch(offset, PROBE).result()
        return bool(page.ids) and page.ids[0] <= highest
