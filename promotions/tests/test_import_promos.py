"""`import_promos`: what a catalogue becomes, and what is refused without a trace."""

import csv
import io
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from promotions.management.commands import import_promos
from promotions.models import FlashPromo, Product, Store

HEADER = (
    "store,store_latitude,store_longitude,product,list_price,promo_price,quantity,starts_at,"
    "ends_at,segments,max_distance_km"
)
ROW = {
    "store": "Corner",
    "store_latitude": "19.4326",
    "store_longitude": "-99.1332",
    "product": "Coffee",
    "list_price": "100.00",
    "promo_price": "60.00",
    "quantity": "10",
    "starts_at": "2030-01-01T10:00:00-06:00",
    "ends_at": "2030-01-01T12:00:00-06:00",
    "segments": "",
    "max_distance_km": "",
}
STARTS, ENDS = datetime(2030, 1, 1, 16, tzinfo=UTC), datetime(2030, 1, 1, 18, tzinfo=UTC)


def row(**cells: str) -> str:
    text = io.StringIO()
    csv.writer(text).writerow((ROW | cells).values())
    return text.getvalue()


class Outcome(NamedTuple):
    """What the command wrote, and the error it ended with."""

    out: list[str]
    err: list[str]
    error: str


@pytest.fixture
def run(db: None, tmp_path: Path) -> Callable[..., Outcome]:
    """Import rows, made by `row`, or `content`, the whole file."""

    def run(*rows: str, content: bytes | None = None, options: tuple[str, ...] = ()) -> Outcome:
        path, out, err, error = tmp_path / "promos.csv", io.StringIO(), io.StringIO(), ""
        path.write_bytes("".join([f"{HEADER}\r\n", *rows]).encode() if content is None else content)
        try:
            call_command("import_promos", str(path), *options, stdout=out, stderr=err)
        except CommandError as refusal:
            error = str(refusal)
        return Outcome(out.getvalue().splitlines(), err.getvalue().splitlines(), error)

    return run


def versions() -> list[Any]:
    """Every row's identity and the transaction that wrote it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 's', id, xmin, ctid FROM promotions_store UNION ALL "
            "SELECT 'p', id, xmin, ctid FROM promotions_product UNION ALL "
            "SELECT 'f', id, xmin, ctid FROM promotions_flashpromo ORDER BY 1, 2"
        )
        return list(cursor.fetchall())


def test_a_row_makes_store_product_and_promo(run):
    run(row(promo_price="59.9", segments="regular | new|new", max_distance_km="3.5"))
    promo = FlashPromo.objects.select_related("product__store").get()
    store = promo.product.store
    assert (store.name, store.latitude, store.longitude) == ("Corner", 19.4326, -99.1332)
    assert (promo.product.name, promo.product.list_price) == ("Coffee", Decimal(100))
    assert (promo.promo_price, promo.quantity) == (Decimal("59.90"), 10)
    assert (promo.starts_at, promo.ends_at, promo.status) == (STARTS, ENDS, "SCHEDULED")
    assert (promo.eligible_segments, promo.max_distance_km) == (["new", "regular"], 3.5)


def test_empty_segments_and_distance_mean_all_and_two_km(run):
    run(row())
    promo = FlashPromo.objects.get()
    assert (promo.eligible_segments, promo.max_distance_km) == ([], 2.0)


def test_a_new_products_stock_is_its_promos_largest_quantity(run):
    run(row(), row(segments="new", quantity="30"), row(segments="regular", quantity="20"))
    assert Product.objects.get().stock == 30


def test_one_name_at_two_places_is_two_stores(run):
    outcome = run(row(), row(store_latitude="19.5"))
    assert outcome.out[:2] == [
        "stores: 2 created, 0 updated, 0 unchanged",
        "products: 2 created, 0 updated, 0 unchanged",
    ]


def test_columns_may_come_in_any_order(run):
    cells = dict(reversed(ROW.items()))
    run(content=f"{','.join(cells)}\n{','.join(cells.values())}\n".encode())
    assert FlashPromo.objects.get().product.name == "Coffee"


def test_a_byte_order_mark_is_no_part_of_the_first_column(run):
    assert run(content=f"{HEADER}\n{row()}".encode("utf-8-sig")).error == ""


def test_names_hold_whatever_can_be_quoted(run):
    name = "Café \"\\N\",\n10'' \\. ñ"
    run(row(store="\\N", product=name))
    assert Product.objects.get(store__name="\\N").name == name


def test_the_same_file_twice_changes_nothing(run):
    rows = row(), row(product="Tea", segments="regular|new"), row(store="Other", quantity="7")
    run(*rows)
    before = versions()
    outcome = run(*rows)
    assert versions() == before
    assert outcome.out == [
        "stores: 0 created, 0 updated, 2 unchanged",
        "products: 0 created, 0 updated, 3 unchanged",
        "promos: 0 created, 0 updated, 3 unchanged",
        "bad rows: 0",
    ]


def test_a_scheduled_promo_takes_new_terms(run):
    run(row(), row(product="Tea"))
    outcome = run(
        row(promo_price="55", quantity="12", max_distance_km="4", list_price="90"),
        row(product="Tea"),
    )
    promo = FlashPromo.objects.get(product__name="Coffee")
    assert (promo.promo_price, promo.quantity, promo.max_distance_km) == (Decimal(55), 12, 4.0)
    assert promo.product.list_price == 90
    assert promo.product.stock == 10
    assert outcome.out[:3] == [
        "stores: 0 created, 0 updated, 1 unchanged",
        "products: 0 created, 1 updated, 1 unchanged",
        "promos: 0 created, 1 updated, 1 unchanged",
    ]


@pytest.mark.parametrize("status", ["ACTIVE", "EXPIRED", "CANCELLED", "ARCHIVED"])
def test_a_promo_no_longer_scheduled_stays_as_it_is(run, status):
    run(row())
    FlashPromo.objects.update(status=status)
    outcome = run(row(promo_price="50"))
    assert FlashPromo.objects.get().promo_price == 60
    assert outcome.out[2:4] == [
        "promos: 0 created, 0 updated, 1 unchanged",
        "1 of the unchanged promos differ from the file but are no longer scheduled",
    ]


@pytest.mark.parametrize("prices", [("200", "150"), ("50", "30")])
def test_list_price_and_promo_price_may_rise_or_fall_together(run, prices):
    run(row())
    list_price, promo_price = prices
    assert run(row(list_price=list_price, promo_price=promo_price)).error == ""
    promo = FlashPromo.objects.select_related("product").get()
    assert (promo.product.list_price, promo.promo_price) == (
        Decimal(list_price),
        Decimal(promo_price),
    )


def test_a_store_created_belongs_to_the_owner_given(run, make_shopper, make_store):
    owner = make_shopper("ana")
    make_store(name="Known")
    run(row(), row(store="Known"), options=("--owner", "ana"))
    assert list(Store.objects.order_by("name").values_list("owner", flat=True)) == [owner.pk, None]


def test_an_unknown_owner_is_refused(run):
    assert run(row(), options=("--owner", "bob")).error == (
        "There is no user 'bob' to own the stores."
    )
    assert versions() == []


NOT_AN_AMOUNT = "is not an amount above 0 with at most 10 digits and 2 decimals"
NOT_A_TIME = "is not an ISO 8601 time such as 2026-11-22T10:00:00-06:00"
NO_ZONE = "has no time zone: end it with Z or an offset such as -06:00"


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("store", "  ", "is empty"),
        ("store", "x" * 201, "has more than 200 characters"),
        ("product", "", "is empty"),
        ("product", "x" * 201, "has more than 200 characters"),
        ("product", "a\0b", "has a NUL character"),
        *(
            (f"store_{name}", cell, f"is not a number from -{limit} to {limit}")
            for name, limit in (("latitude", 90), ("longitude", 180))
            for cell in ("180.1", "-181", "nan", "inf", "1e999", "north", "1_0", "\u0661")
        ),
        *(
            (column, cell, NOT_AN_AMOUNT)
            for column in ("list_price", "promo_price")
            for cell in ("0", "0.00", "-1", "10.005", "10000000000", "NaN", "Infinity", "1e2", "$5")
        ),
        *(
            ("quantity", cell, "is not a whole number from 1 to 2147483647")
            for cell in ("0", "-1", "2147483648", "1.5", "1_0", "9" * 5000)
        ),
        *(
            ("starts_at", cell, NOT_A_TIME)
            for cell in ("tomorrow", "2026-02-30T10:00Z", "0001-01-01T00:00+14:00")
        ),
        ("ends_at", "9999-12-31T23:59-01:00", NOT_A_TIME),
        ("starts_at", "2026-11-22T10:00:00", NO_ZONE),
        ("ends_at", "2026-11-22", NO_ZONE),
        *(
            ("segments", cell, "is not a list of new, frequent, regular separated by |")
            for cell in ("NEW", "new,regular", "new||regular", "|")
        ),
        *(
            ("max_distance_km", cell, "is not a number of km above 0 and at most 20100")
            for cell in ("0", "-2", "20100.1", "nan", "near")
        ),
    ],
)
def test_a_cell_that_the_database_would_refuse_is_a_bad_row(run, column, cell, reason):
    outcome = run(row(**{column: cell}))
    (line,) = outcome.err
    assert line.startswith(f"line 2: {column} ")
    assert line.endswith(f" {reason}")
    assert len(line) < 200
    assert outcome.error == "1 bad row: nothing was imported."


@pytest.mark.parametrize(
    "cells",
    [
        {"store_latitude": "90", "store_longitude": "-180", "max_distance_km": "20100"},
        {"store_latitude": "-0.0", "store_longitude": "1e-400", "max_distance_km": ".5"},
        {"list_price": "9999999999.99", "promo_price": "9999999999.98"},
        {"list_price": "0.02", "promo_price": "0.01", "quantity": "2147483647"},
        {"starts_at": "0001-01-01T00:00Z", "ends_at": "9999-12-31T23:59:59.999999Z"},
        {"store": "ñ" * 200, "product": "🛒" * 200},
    ],
)
def test_the_ends_of_every_range_are_imported(run, cells):
    assert run(row(**cells)).error == ""
    assert FlashPromo.objects.get().held == 0


def test_every_bad_row_is_reported_at_once_with_all_its_reasons(run):
    outcome = run(
        row(quantity="0", segments="vip"),
        row(product="Tea"),
        row(product="Salt", promo_price="100", ends_at=ROW["starts_at"]),
        row(product="Tea"),
        "too,few\r\n",
    )
    assert outcome.err == [
        "line 2: quantity '0' is not a whole number from 1 to 2147483647; segments 'vip' is not "
        "a list of new, frequent, regular separated by |",
        "line 4: promo_price 100 is not below the list_price 100.00; ends_at is not after "
        "starts_at",
        "line 5: repeats the promo on line 3",
        "line 6: has 2 cells, not 11",
    ]
    assert outcome.error == "4 bad rows: nothing was imported."
    assert versions() == []


def test_skip_bad_rows_imports_the_rest_and_reports_them_all_the_same(run):
    outcome = run(row(quantity="x"), row(product="Tea"), options=("--skip-bad-rows",))
    assert [line[:7] for line in outcome.err] == ["line 2:"]
    assert outcome.error == ""
    assert outcome.out[2:] == ["promos: 1 created, 0 updated, 0 unchanged", "bad rows: 1"]
    assert Product.objects.get().name == "Tea"


def test_line_numbers_are_those_of_the_file(run):
    outcome = run("\n", row(product="two\nlines"), "\r\n", row(quantity="x"), row(quantity="y"))
    assert [line.split(":")[0] for line in outcome.err] == ["line 6", "line 7"]


def test_another_list_price_for_a_product_is_a_bad_row(run):
    rows = row(), row(segments="new", list_price="99"), row(segments="regular", list_price="100")
    outcome = run(*rows, options=("--skip-bad-rows",))
    assert outcome.err == [
        "line 3: list_price 99.00 differs from 100.00 on line 2, for the same product"
    ]
    assert FlashPromo.objects.count() == 2


def test_a_promo_given_twice_is_a_bad_row_however_it_is_written(run):
    again = row(starts_at="2030-01-01T16:00Z", segments="new|regular", quantity="3")
    outcome = run(row(segments="regular|new"), again, again, options=("--skip-bad-rows",))
    assert outcome.err == [f"line {line}: repeats the promo on line 2" for line in (3, 4)]
    assert FlashPromo.objects.get().quantity == 10


def test_a_row_may_conflict_in_more_than_one_way(run):
    outcome = run(row(), row(list_price="90"))
    assert outcome.err == [
        "line 3: list_price 90.00 differs from 100.00 on line 2, for the same product; "
        "repeats the promo on line 2"
    ]


@pytest.mark.parametrize("status", ["SCHEDULED", "ACTIVE"])
def test_a_list_price_not_above_another_promos_price_is_a_bad_row(run, status):
    run(row(promo_price="80"))
    FlashPromo.objects.update(status=status)
    before = versions()
    rows = row(segments="new", list_price="80"), row(segments="regular", list_price="80")
    outcome = run(*rows, options=("--skip-bad-rows",))
    reason = "list_price 80.00 is not above 80.00, the price of a promo of the product"
    assert outcome.err == [f"line {n}: {reason} that is scheduled or active" for n in (2, 3)]
    assert versions() == before


def test_an_active_promos_own_row_does_not_lower_its_price(run):
    run(row(promo_price="80"))
    FlashPromo.objects.update(status="ACTIVE")
    assert run(row(promo_price="50", list_price="70")).error.startswith("1 bad row:")


def test_past_promos_do_not_hold_the_list_price(run):
    run(row(promo_price="80"))
    FlashPromo.objects.update(status="EXPIRED")
    assert run(row(segments="new", list_price="70")).error == ""


def test_a_row_left_out_lowers_no_promos_price(run):
    run(row(promo_price="80"))
    rows = (
        row(promo_price="50", list_price="70", quantity="0"),
        row(segments="new", list_price="70"),
    )
    outcome = run(*rows, options=("--skip-bad-rows",))
    assert [line[:7] for line in outcome.err] == ["line 2:", "line 3:"]
    assert Product.objects.get().list_price == 100


def test_a_quantity_below_what_is_held_or_sold_is_a_bad_row(run):
    run(row())
    FlashPromo.objects.update(held=2, completed=3)
    outcome = run(row(quantity="4"))
    assert outcome.err == ["line 2: quantity 4 is below the 5 units already held or sold"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"store,product\nCorner,Coffee\n",
        f"{HEADER},color\n".encode(),
        f"{HEADER},store\n".encode(),
        HEADER.replace(",", ";").encode(),
        f"{HEADER}\n".encode("utf-16"),
        b'"' + HEADER.encode(),
        bytes(range(256)),
    ],
)
def test_a_file_without_the_columns_is_refused_in_one_line(run, content):
    outcome = run(content=content)
    assert outcome.error.startswith(f"The first line must name the columns {HEADER}; it is '")
    assert "\n" not in outcome.error
    assert outcome.error.isprintable()


def test_an_undecodable_byte_is_a_bad_row(run):
    rows = row() + row(product="Caf?").replace("?", "\udce9")
    content = f"{HEADER}\n{rows}".encode(errors="surrogateescape")
    assert run(content=content).err == [r"line 3: product 'Caf\udce9' is not UTF-8"]


def test_an_open_quote_costs_its_own_line_alone(run):
    rows = row(), '"Corner,\r\n', *(row(product=f"Tea {n}") for n in range(150))
    outcome = run(*rows, options=("--skip-bad-rows",))
    assert outcome.err == ["line 3: cannot be read (more than 100 lines): is a quote missing?"]
    assert FlashPromo.objects.count() == 151


def test_an_open_quote_near_the_end_costs_its_own_line_alone(run):
    outcome = run('"Corner,\r\n', row(), options=("--skip-bad-rows",))
    assert outcome.err == ["line 2: cannot be read (unexpected end of data): is a quote missing?"]
    assert FlashPromo.objects.count() == 1


def test_a_line_too_long_is_a_bad_row(run):
    outcome = run("x" * 300_000 + "\r\n", row(quantity="x"))
    assert outcome.err[0].startswith("line 2: cannot be read (a line of more than 100000 char")
    assert outcome.err[1].startswith("line 3: quantity 'x'")


@pytest.mark.parametrize(
    ("name", "reason"), [("none.csv", "No such file or directory"), ("", "Is a directory")]
)
def test_a_file_that_cannot_be_read_ends_in_one_line(tmp_path, capsys, name, reason):
    path = tmp_path / name
    with pytest.raises(SystemExit, match="1"):
        import_promos.Command().run_from_argv(["manage.py", "import_promos", str(path)])
    assert capsys.readouterr().err == f"CommandError: {path}: {reason}\n"


def test_a_second_import_at_the_same_time_is_refused(run):
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtextextended('promotions.imports', 0))")
    error = run(row()).error
    other.close()
    assert error == "Another import is running: try again when it has ended."


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_ends_in_one_line_and_changes_nothing(run):
    run(row())
    before = versions()
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SELECT FROM promotions_product FOR UPDATE")
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '50ms'")
    error = run(row(store="New"), row(list_price="200")).error
    other.close()
    connection.close()
    assert error == (
        "The database refused, nothing was imported: canceling statement due to lock timeout"
    )
    assert versions() == before


def test_many_promos_of_one_window_are_not_compared_each_with_each(run):
    rows = [row(store=f"Store {n % 100}", product=f"Product {n // 100}") for n in range(8_000)]
    run(*rows)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '10s'")
    assert run(*rows).out[2] == "promos: 0 created, 0 updated, 8000 unchanged"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_file_shows_its_progress_on_a_terminal_only(run, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(row())
    assert terminal.getvalue() == ""
    rows = [row(product=f"Tea {n}", quantity=" " * 90_000 + "5") for n in range(12)]
    run(*rows)
    assert "100%" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", quiet := io.StringIO())
    run(*rows)
    assert quiet.getvalue() == ""


CELLS = st.one_of(
    st.sampled_from(sorted({*ROW.values(), "0", "-1", "1e999", "nan", '"', "\0", "new|", "Z"})),
    st.text(max_size=8),
)
FILES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=300).map(lambda noise: f"{HEADER}\n{row()}".encode() + noise),
    st.lists(st.fixed_dictionaries({name: CELLS | st.just(ROW[name]) for name in ROW}), max_size=5)
    .map(lambda rows: "".join([f"{HEADER}\n", *(row(**cells) for cells in rows)]))
    .map(lambda text: text.encode(errors="surrogatepass")),
)


@settings(
    max_examples=75,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=FILES, skip=st.booleans())
@example(content=f"{HEADER}\n{row()}".encode(), skip=False)
def test_whatever_the_bytes_the_import_is_clean_or_changes_nothing(run, content, skip):
    before = versions()
    outcome = run(content=content, options=("--skip-bad-rows",) if skip else ())
    assert not outcome.error or versions() == before
    assert bool(outcome.out) is not bool(outcome.error)
