"""Whatever PanAccess' list does and whatever fails, all of it is stored in the end, and once."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from telemetry.clients.panaccess import PanAccess, PanAccessAway, PanAccessError
from telemetry.exceptions import NotConfigured, NotHeld
from telemetry.models import QuarantinedRecord, SyncState, TelemetryRecordEntry
from telemetry.services import sync
from telemetry.services.holding import chain_hold
from telemetry.services.storing import page_store
from telemetry.services.sync import OVERLAP, PAGE, SEARCHES, telemetry_sync
from telemetry.tests.telling import HOLDER, told
from telemetry.tests.vendor import entries, vendor
from tests.sandbox import Sandbox

pytestmark = pytest.mark.django_db

LIST = "getListOfTelemetryRecords"
#: Records of a list of four pages, by their overlap.
MANY = 3500


def run() -> dict[str, Any]:
    return telemetry_sync(holder=HOLDER)


def run_to_the_end(most: int = 20) -> None:
    """As the tasks do: what fails is tried again."""
    for _ in range(most):
        try:
            if run()["is_complete"]:
                return
        except PanAccessError:
            pass
    raise AssertionError("the list's end is not reached")


def stored() -> list[int]:
    return [*TelemetryRecordEntry.objects.order_by("pk").values_list("pk", flat=True)]


def ids(records: list[dict[str, Any]]) -> list[int]:
    return [record["recordId"] for record in records]


def state() -> Any:
    return SyncState.objects.get()


def offsets(sandbox: Sandbox) -> list[str]:
    """Of the pages asked for, looks for the place left out."""
    lines = [line for line in sandbox.log.read_text().splitlines() if f"limit={PAGE}:" in line]
    return [line.partition("offset=")[2].partition(" ")[0] for line in lines]


@pytest.fixture
def asked(sandbox: Sandbox) -> Callable[[], list[int]]:
    """The offsets of the pages that were asked for since this was last asked."""
    known = len(offsets(sandbox))

    def since() -> list[int]:
        nonlocal known
        new, known = offsets(sandbox)[known:], len(offsets(sandbox))
        return [*map(int, new)]

    return since


# --- What is new ---
def test_the_first_sync_stores_everything(sandbox, asked):
    sandbox.freeze(0, MANY)
    result = run()
    assert asked() == [0, 950, 1900, 2850]
    listing = sandbox.listing()
    assert stored() == ids(listing)
    assert result == {
        "highest_id_before": 0,
        "highest_id_after": listing[-1]["recordId"],
        "pages": 4,
        "fetched": MANY + 3 * OVERLAP,
        "inserted": MANY,
        "updated": 0,
        "quarantined": 0,
        "is_complete": True,
    }


def test_the_next_sync_fetches_only_what_is_new(sandbox, called):
    sandbox.freeze(0, MANY)
    run()
    called()
    sandbox.freeze(0, MANY + 30)
    result = run()
    assert called() == {"login": 1, LIST: 1}
    assert (result["fetched"], result["inserted"], result["updated"]) == (OVERLAP + 30, 30, 0)
    assert stored() == ids(sandbox.listing())
    run()
    assert len(stored()) == MANY + 30


def test_each_record_is_stored_as_it_was_told(sandbox):
    sandbox.freeze(20_000, 20_100)
    run()
    found = TelemetryRecordEntry.objects.order_by("pk")
    for row, record in zip(found, sandbox.listing(), strict=True):
        assert row.pk == record["recordId"]
        assert f"{row.timestamp:%Y-%m-%d %H:%M:%S}" == record["timestamp"]
        assert (str(row.date), row.hour) == (record["date"], int(record["timestamp"][11:13]))
        assert row.device_id == str(record["deviceId"])
        assert (row.extra or {}).get("signal") == record.get("signal")


@pytest.mark.parametrize("count", [0, 1, OVERLAP, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE - OVERLAP])
def test_a_list_of_any_length_is_stored(sandbox, count):
    sandbox.freeze(0, count)
    assert run()["is_complete"]
    sandbox.freeze(0, count + 1)
    assert run()["inserted"] == 1
    assert stored() == ids(sandbox.listing())


# --- Faults ---
#: For as long as they are on some runs fail; when they are off the next goes on.
FAULTS = [
    *(("error_500", {}), ("malformed_json", {}), ("dropped", {}), ("expired_session", {})),
    *(("slow", {"seconds": 3600}), ("dripping", {"seconds": 3600})),
    *(("duplicated_pages", {}), ("late_records", {"records": 20})),
    *(("shifting_pages", {"records": 7}), ("shifting_pages", {"records": 400})),
    ("bad_records", {"records": 40}),
]


@pytest.mark.parametrize(("page", "calls"), [(0, 1), (1, 4), (3, 1)])
@pytest.mark.parametrize(("fault", "how"), FAULTS, ids=str)
def test_with_a_fault_nothing_is_lost_or_doubled(
    sandbox, settings, monkeypatch, fault, how, page, calls
):
    sandbox.freeze(0, MANY)
    before = ids(sandbox.listing())
    fetch, fetched = PanAccess.telemetry_records, Counter[str]()

    def fail_from_the_page_on(self: PanAccess, **place: int) -> list[Any]:
        if fetched["pages"] == page:
            sandbox.fault(fault, calls=calls, **how)
        fetched["pages"] += 1
        return fetch(self, **place)

    monkeypatch.setattr(PanAccess, "telemetry_records", fail_from_the_page_on)
    if fault in ("slow", "dripping"):
        settings.PANACCESS_TIMEOUT_SECONDS = 0.5
    run_to_the_end()
    sandbox.clear()
    run_to_the_end()
    after = ids(sandbox.listing())
    kept = [*QuarantinedRecord.objects.values_list("record_id", flat=True)]
    lost = {*after} - {*stored(), *kept}
    unreadable = 15 if fault == "bad_records" else 0  # of 40 it makes so many without their id
    assert len(lost) <= unreadable * calls
    assert {*stored()} <= {*before}
    assert bool(kept) == (fault == "bad_records")
    assert state().error == ""


def test_records_that_came_late_are_stored_when_they_come(sandbox):
    sandbox.fault("late_records", calls=0, records=20)
    run()
    assert len(stored()) == 80
    sandbox.freeze(0, 120)
    sandbox.clear()
    assert run()["inserted"] == 40
    assert stored() == ids(sandbox.listing())


def test_a_list_that_shifts_all_the_time_is_followed_to_its_end(sandbox):
    sandbox.freeze(0, MANY)
    before = ids(sandbox.listing())
    sandbox.fault("shifting_pages", calls=0, records=7)
    assert run()["pages"] == 4
    assert stored() == before


def test_malformed_records_are_kept_apart_and_stop_nothing(sandbox):
    sandbox.freeze(0, MANY)
    sandbox.fault("bad_records", calls=0, records=8)
    result = run()
    # Of eight one is a text after all, and what is no object is the same each time.
    assert (result["pages"], result["quarantined"], result["is_complete"]) == (4, 25, True)
    reasons = " ".join(QuarantinedRecord.objects.values_list("reason", flat=True))
    for word in ["is not an object", "recordId: null", "timestamp: ", "subscriberCode: "]:
        assert word in reasons
    sandbox.clear()
    assert result["highest_id_after"] == ids(sandbox.listing())[-1]
    # Of the 28 others three had come well-formed in the page before.
    assert len(stored()) == MANY - 25


# --- Purges ---
@pytest.mark.parametrize(
    ("first", "end"),
    [
        (40_000, 60_500),  # far ahead of what was stored: all of it is new
        (99_000, 101_500),  # what was stored is the beginning
        (100_000 - OVERLAP, 100_500),
        (99_999, 100_500),  # only the highest is left
        (100_000, 100_500),  # the highest is the last that is gone
        (100_000, 100_000),  # nothing is left
        (5_000_000, 5_002_500),
    ],
)
def test_a_purge_while_nobody_looked_loses_nothing(sandbox, called, first, end):
    sandbox.freeze(97_500, 100_000) if first > 60_000 else sandbox.freeze(0, 2500)
    run()
    known = stored()
    # As if the list had been longer when it was last seen.
    SyncState.objects.update(next_offset=60_000)
    sandbox.freeze(first, end)
    called()
    run_to_the_end()
    pages = (end - first) // (PAGE - OVERLAP) + 2
    assert called()[LIST] <= pages + 40
    run()
    assert called()[LIST] == 1
    assert stored() == sorted({*known, *ids(sandbox.listing())})


def test_a_list_that_begins_anew_after_everything_went_is_stored(sandbox):
    run()
    known = stored()
    sandbox.freeze(100, 100)
    assert run()["is_complete"]
    sandbox.freeze(100, 2300)
    assert run()["inserted"] == 2200
    assert stored() == known + ids(sandbox.listing())


# --- Interruptions ---
@pytest.mark.parametrize("failing", [1, 2, 4])
def test_an_interrupted_run_is_gone_on_with_where_it_was(sandbox, asked, monkeypatch, failing):
    sandbox.freeze(0, MANY)
    pages = Counter[str]()

    def fail_at_last(*args: Any, **kwargs: Any) -> Any:
        pages["stored"] += 1
        if pages["stored"] == failing:
            raise MemoryError("killed")
        return page_store(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sync, "page_store", fail_at_last)
        with pytest.raises(MemoryError):
            run()
    assert len(stored()) == max(0, 950 * (failing - 1) + OVERLAP) * (failing > 1)
    assert (state().error, state().complete_at) == ("MemoryError: killed", None)
    assert state().finished_at
    asked()
    assert run()["is_complete"]
    assert asked() == [0, 950, 1900, 2850][failing - 1 :]
    assert stored() == ids(sandbox.listing())


def test_a_run_whose_place_was_taken_stores_nothing_and_is_no_error(sandbox, monkeypatch):
    def store_late(*args: Any, **kwargs: Any) -> Any:
        SyncState.objects.update(holder="another")
        return page_store(*args, **kwargs)

    monkeypatch.setattr(sync, "page_store", store_late)
    with pytest.raises(NotHeld):
        run()
    assert (stored(), state().error, state().holder) == ([], "", "another")


def test_a_run_that_is_out_of_time_is_not_complete_and_the_next_goes_on(
    sandbox, asked, monkeypatch
):
    sandbox.freeze(0, MANY)
    monkeypatch.setattr(sync, "SECONDS", 0)
    results = [run()]
    assert state().complete_at is None
    results += [run() for _ in range(3)]
    assert [result["is_complete"] for result in results] == [False, False, False, True]
    assert [result["pages"] for result in results] == [1, 1, 1, 1]
    assert state().complete_at
    assert stored() == ids(sandbox.listing())


def test_a_run_that_lost_the_chain_stores_nothing_more(sandbox, monkeypatch):
    sandbox.freeze(0, MANY)

    def lose_the_chain(*args: Any, **kwargs: Any) -> Any:
        result = page_store(*args, **kwargs)
        SyncState.objects.update(holder="another")
        return result

    monkeypatch.setattr(sync, "page_store", lose_the_chain)
    with pytest.raises(NotHeld):
        run()
    assert len(stored()) == PAGE


# --- Lists that are none ---
def listing_of(records: list[Any]) -> Callable[[dict[str, str]], Any]:
    return lambda form: entries(records[int(form["offset"]) :][: int(form["limit"])])


@pytest.fixture
def use(circuit: None, settings: Any) -> Callable[[str], None]:
    def give(url: str) -> None:
        settings.PANACCESS_URL = url
        settings.PANACCESS_USERNAME = settings.PANACCESS_PASSWORD = "any"

    return give


def test_a_list_that_is_not_in_order_is_an_error(use):
    with vendor(listing_of([told(1), told(3), told(2)])) as server:
        use(server.url)
        with pytest.raises(PanAccessError, match=r"from offset 0 on are not in the order of their"):
            run()
    assert stored() == []


@pytest.mark.parametrize("length", [PAGE, 300])
def test_a_list_that_does_not_honour_offsets_is_an_error_after_some_calls(use, length):
    with vendor(lambda form: entries([told(number) for number in range(1, length + 1)])) as server:
        use(server.url)
        if length < PAGE:
            assert run()["is_complete"]
        else:
            with pytest.raises(PanAccessError, match=r"has no end|keep its order"):
                run()
    assert len(server.asked) < SEARCHES * 40
    assert len(stored()) == length


def test_a_list_that_loses_its_place_again_and_again_is_an_error(use):
    known = [told(number) for number in range(1, PAGE + 1)]

    def shift(form: dict[str, str]) -> Any:
        """Whoever looks for the place finds it, and then it is another."""
        if int(form["limit"]) < PAGE or form["offset"] == "0":
            return listing_of(known)(form)
        return entries([told(5000)])

    with vendor(shift) as server:
        use(server.url)
        with pytest.raises(PanAccessError, match=r"what comes after record 1000 cannot be found"):
            run()
    assert len(server.asked) < SEARCHES * 40


# --- What is told ---
def test_the_state_tells_of_a_run_that_came_to_the_end(sandbox):
    before = timezone.now()
    run()
    now = state()
    assert before < now.started_at < now.finished_at < timezone.now()
    assert (now.complete_at, now.error) == (now.started_at, "")
    assert (now.highest_id, now.next_offset) == (stored()[-1], 100)


def test_the_state_tells_of_a_run_that_failed(sandbox):
    run()
    complete = state()
    sandbox.fault("error_500", calls=0)
    with pytest.raises(PanAccessAway):
        run()
    failed = state()
    assert failed.error == "PanAccessAway: login: HTTP 500"
    assert failed.finished_at > failed.started_at > complete.finished_at
    assert failed.complete_at == complete.complete_at
    sandbox.clear()
    run()
    assert (state().error, state().complete_at) == ("", state().started_at)


def test_without_an_address_nothing_is_done(settings):
    settings.PANACCESS_URL = ""
    with pytest.raises(NotConfigured):
        run()
    assert not SyncState.objects.exists()


def test_while_another_has_the_chain_nothing_is_asked(sandbox, called):
    chain_hold("another")
    with pytest.raises(NotHeld):
        run()
    assert called() == {}
    assert state().started_at is None


def test_no_more_than_two_pages_are_in_memory(sandbox, monkeypatch):
    sandbox.freeze(0, 8 * PAGE)
    pages, most = Counter[str](), 0
    fetch = PanAccess.telemetry_records

    def count_fetched(self: PanAccess, **place: int) -> list[Any]:
        pages["there"] += 1
        return fetch(self, **place)

    def count_stored(*args: Any, **kwargs: Any) -> Any:
        nonlocal most
        most = max(most, pages["there"])
        pages["there"] -= 1
        return page_store(*args, **kwargs)

    monkeypatch.setattr(PanAccess, "telemetry_records", count_fetched)
    monkeypatch.setattr(sync, "page_store", count_stored)
    assert run()["pages"] == 9
    assert most <= 2


# --- Whatever happens in between ---
EVENTS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 25)),
    st.tuples(st.just("purge"), st.integers(1, 40)),
    st.tuples(st.just("fail"), st.just(0)),
    st.tuples(st.just("nothing"), st.just(0)),
)
#: A late record is found among as many as a page overlaps the one before, unless old ones go.
LATE_EVENTS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 25)),
    st.tuples(st.just("late"), st.integers(1, 3)),
    st.tuples(st.just("nothing"), st.just(0)),
)


class Listing:
    """PanAccess in memory: at each call something happens to its list before it answers."""

    def __init__(self, count: int, events: list[tuple[str, int]]) -> None:
        self.ids: list[int] = []
        self.all: set[int] = set()
        self.events = events[::-1]
        self.append(count)

    def append(self, count: int) -> None:
        newest = max(self.all, default=0) // 100
        self.ids += [100 * (newest + number) for number in range(1, count + 1)]
        self.all |= {*self.ids}

    def late(self, back: int) -> None:
        place = max(0, len(self.ids) - back)
        if self.ids and self.ids[place] - 1 not in self.all:
            self.ids.insert(place, self.ids[place] - 1)
            self.all |= {*self.ids}

    def happen(self) -> None:
        event, count = self.events.pop() if self.events else ("nothing", 0)
        if event == "append":
            self.append(count)
        elif event == "late":
            self.late(count)
        elif event == "purge":
            del self.ids[:count]
        elif event == "fail":
            raise PanAccessAway("down")

    # What the sync knows of its client.
    def __call__(self) -> "Listing":
        return self

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def telemetry_records(self, *, offset: int, limit: int) -> list[Any]:
        self.happen()
        return [told(number) for number in self.ids[offset:][:limit]]


class AtOnce(ThreadPoolExecutor):
    """So that an example is the same each time."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except PanAccessError as error:
            done.set_exception(error)
        return done


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "PAGE", 10)
    monkeypatch.setattr(sync, "OVERLAP", 3)
    monkeypatch.setattr(sync, "PROBE", 2)
    monkeypatch.setattr(sync, "ThreadPoolExecutor", AtOnce)


@hypothesis(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    count=st.integers(0, 45),
    events=st.lists(EVENTS, max_size=25) | st.lists(LATE_EVENTS, max_size=25),
    interrupted=st.frozensets(st.integers(1, 12), max_size=3),
    is_short=st.booleans(),
)
def test_what_was_there_when_a_complete_run_began_is_stored_once(
    small_pages, count, events, interrupted, is_short
):
    listing, counts = Listing(count, events), Counter[str]()

    def store_unless_interrupted(*args: Any, **kwargs: Any) -> Any:
        counts["calls"] += 1
        if counts["calls"] in interrupted:
            raise PanAccessAway("interrupted")
        result = page_store(*args, **kwargs)
        counts["inserted"] += result.inserted
        return result

    with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync, "PanAccess", listing)
        patch.setattr(sync, "page_store", store_unless_interrupted)
        patch.setattr(sync, "SECONDS", 0 if is_short else 120)
        patch.setattr("django.conf.settings.PANACCESS_URL", "http://in.memory/")
        for _ in range(60):
            there, is_over = {*listing.ids}, not listing.events
            with suppress(PanAccessError):
                if run()["is_complete"]:
                    assert {*listing.ids} & there <= {*stored()}
                    if is_over:
                        break
        else:
            raise AssertionError("the list's end is not reached")
        assert {*listing.ids} <= {*stored()} <= listing.all
        assert counts["inserted"] == len(stored())
        transaction.set_rollback(True)
