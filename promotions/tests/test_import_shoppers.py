"""`import_shoppers`: who comes to be, what changes, what is refused."""

import csv
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection

from promotions.models import ShopperProfile
from promotions.services.imports import open_csv, shoppers_import

ROW = {
    "username": "ana",
    "email": "ana@example.com",
    "segment": "frequent",
    "latitude": "19.4",
    "longitude": "-99.1",
    "time_zone": "America/Mexico_City",
    "notifications": "on",
}
HEADER = ",".join(ROW)


def row(**cells: str) -> str:
    text = io.StringIO()
    csv.writer(text).writerow((ROW | cells).values())
    return text.getvalue()


@pytest.fixture
def run(db: None, tmp_path: Path) -> Callable[..., list[str]]:
    """Import rows, made by `row`; return every line that the command wrote."""

    def run(*rows: str, options: tuple[str, ...] = ()) -> list[str]:
        path, out = tmp_path / "shoppers.csv", io.StringIO()
        path.write_text("".join([f"{HEADER}\n", *rows]), newline="")
        try:
            call_command("import_shoppers", str(path), *options, stdout=out, stderr=out)
        except CommandError as error:
            out.write(f"{error}\n")
        return out.getvalue().splitlines()

    return run


def versions() -> list[Any]:
    """Every row's identity and the transaction that wrote it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 'u', id, xmin, ctid FROM auth_user UNION ALL "
            "SELECT 'p', user_id, xmin, ctid FROM promotions_shopperprofile ORDER BY 1, 2"
        )
        return list(cursor.fetchall())


def test_a_row_makes_a_user_with_a_profile(run):
    run(row(notifications="off"))
    user = User.objects.select_related("shopper_profile").get(username="ana")
    profile = user.shopper_profile
    assert (user.email, user.is_active, user.is_staff) == ("ana@example.com", True, False)
    assert (profile.segment, profile.latitude, profile.longitude) == ("frequent", 19.4, -99.1)
    assert (profile.time_zone, profile.notifications_enabled) == ("America/Mexico_City", False)
    assert profile.channel == "in_app"


def test_new_users_cannot_log_in(run):
    run(row(), row(username="bob"))
    ana, bob = User.objects.order_by("username")
    assert not ana.has_usable_password()
    assert not bob.has_usable_password()
    assert len(ana.password) == len(bob.password) == 41
    assert ana.password != bob.password


def test_the_same_file_twice_changes_nothing(run):
    rows = row(), row(username="bob", email="")
    run(*rows)
    before = versions()
    assert run(*rows) == [
        "users: 0 created, 0 updated, 2 unchanged",
        "profiles: 0 created, 0 updated, 2 unchanged",
        "bad rows: 0",
    ]
    assert versions() == before


def test_a_known_user_takes_the_new_values_and_keeps_the_rest(run, make_shopper):
    ana = make_shopper("ana", email="old@example.com", phone="555", channel="email")
    out = run(row(segment="new", latitude="20", time_zone="UTC", notifications="off"))
    assert out[:2] == [
        "users: 0 created, 1 updated, 0 unchanged",
        "profiles: 0 created, 1 updated, 0 unchanged",
    ]
    ana = User.objects.select_related("shopper_profile").get(pk=ana.pk)
    profile = ana.shopper_profile
    assert (ana.email, ana.check_password("pass")) == ("ana@example.com", True)
    assert (profile.segment, profile.latitude, profile.time_zone) == ("new", 20, "UTC")
    assert profile.notifications_enabled is False
    assert (profile.phone, profile.channel) == ("555", "email")


def test_without_an_e_mail_address_the_channel_is_in_app(run, make_shopper):
    make_shopper("ana", email="old@example.com", channel="email")
    run(row(email=""))
    assert User.objects.get().email == ""
    assert ShopperProfile.objects.get().channel == "in_app"


def test_a_user_who_lost_the_profile_gets_one(run, make_shopper):
    make_shopper("ana", email="ana@example.com")
    ShopperProfile.objects.all().delete()
    assert run(row())[:2] == [
        "users: 0 created, 0 updated, 1 unchanged",
        "profiles: 1 created, 0 updated, 0 unchanged",
    ]


def test_names_and_addresses_are_kept_as_django_normalises_them(run):
    run(row(username="ﬁona", email="Fiona@EXAMPLE.com"))
    user = User.objects.get()
    assert (user.username, user.email) == ("fiona", "Fiona@example.com")


def test_a_username_given_twice_is_a_bad_row(run):
    out = run(
        row(), row(username="ﬁona"), row(username="fiona"), row(), options=("--skip-bad-rows",)
    )
    assert out[:2] == [
        "line 4: repeats the username of line 3",
        "line 5: repeats the username of line 2",
    ]
    assert User.objects.count() == 2


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("username", "", "is empty"),
        ("username", "x" * 151, "has more than 150 characters"),
        ("username", "ﬁ" * 100, "has more than 150 characters"),
        ("username", "a b", "may hold only letters, digits and @ . + - _"),
        ("username", "a\0", "has a NUL character"),
        ("email", "ana", "is not an e-mail address"),
        ("email", "ana@example.com\0", "has a NUL character"),
        ("email", f"{'x' * 60}@{'y.' * 100}com", "has more than 254 characters"),
        ("segment", "vip", "is not one of new, frequent, regular"),
        ("segment", "", "is empty"),
        ("latitude", "90.1", "is not a number from -90 to 90"),
        ("longitude", "", "is empty"),
        ("time_zone", "Mexico", "is not an IANA time zone such as America/Mexico_City"),
        (
            "time_zone",
            "america/mexico_city",
            "is not an IANA time zone such as America/Mexico_City",
        ),
        ("time_zone", "../UTC", "is not an IANA time zone such as America/Mexico_City"),
        ("notifications", "yes", "is neither on nor off"),
    ],
)
def test_a_wrong_cell_is_a_bad_row(run, column, cell, reason):
    line, error = run(row(**{column: cell}))
    assert line.startswith(f"line 2: {column} ")
    assert line.endswith(f" {reason}")
    assert error == "1 bad row: nothing was imported."
    assert versions() == []


def test_bad_rows_can_be_left_out(run):
    out = run(row(segment="vip"), row(username="bob"), options=("--skip-bad-rows",))
    assert out[-1] == "bad rows: 1"
    assert User.objects.get().username == "bob"


def test_the_database_takes_every_time_zone_that_the_import_takes(run):
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_timezone_names")
        names = sorted(name for (name,) in cursor.fetchall())
    rows = [row(username=f"user{n}", time_zone=name) for n, name in enumerate(names)]
    run(*rows, options=("--skip-bad-rows",))
    assert ShopperProfile.objects.count() > 400


@pytest.mark.django_db
def test_a_long_file_is_never_in_memory_as_a_whole(tmp_path):
    path = tmp_path / "shoppers.csv"
    with path.open("w") as file:
        file.write(f"{HEADER}\n")
        file.writelines(row(username=f"user{n}") for n in range(10_000))
    tracemalloc.start()
    with open_csv(path) as file:
        result = shoppers_import(file=file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.counts["users"].created == 10_000
    assert peak < 4_000_000
