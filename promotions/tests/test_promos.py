"""Promos open, are announced, close and are cleaned up."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promotions.exceptions import PromoClosed
from promotions.models import FlashPromo, Notification, Reservation
from promotions.services import promos

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
SCHEDULED, ACTIVE = FlashPromo.Status.SCHEDULED, FlashPromo.Status.ACTIVE


def told() -> set[str]:
    return set(Notification.objects.values_list("shopper__username", flat=True))


def test_a_promo_opens_when_its_window_has_begun(make_promo):
    due = make_promo(status=SCHEDULED)
    later = make_promo(status=SCHEDULED, starts_at=timezone.now() + HOUR / 2)
    assert promos.promos_open() == (1, 0)
    due.refresh_from_db()
    later.refresh_from_db()
    assert (due.status, later.status) == (ACTIVE, SCHEDULED)


def test_a_promo_closes_when_its_window_is_over(make_promo):
    over = make_promo(starts_at=timezone.now() - 2 * HOUR, ends_at=timezone.now() - HOUR)
    make_promo()
    assert promos.promos_close() == 1
    over.refresh_from_db()
    assert over.status == FlashPromo.Status.EXPIRED


def test_a_promo_whose_whole_window_passed_notifies_nobody(make_promo, make_shopper):
    make_shopper()
    missed = make_promo(
        status=SCHEDULED, starts_at=timezone.now() - 2 * HOUR, ends_at=timezone.now() - HOUR
    )
    assert promos.promos_open() == (0, 0)
    assert promos.promos_close() == 1
    missed.refresh_from_db()
    assert (missed.status, told()) == (FlashPromo.Status.EXPIRED, set())


def test_more_promos_than_a_batch_all_open_and_close(make_promo, monkeypatch):
    monkeypatch.setattr(promos, "BATCH", 2)
    for _ in range(5):
        make_promo(status=SCHEDULED)
    assert promos.promos_open() == (5, 0)
    FlashPromo.objects.update(starts_at=timezone.now() - 2 * HOUR, ends_at=timezone.now() - HOUR)
    assert promos.promos_close() == 5


def test_only_eligible_shoppers_are_told(make_promo, make_shopper):
    make_shopper("near")
    make_shopper("edge", latitude=19.4326 + 1.99 / 111.195)
    make_shopper("far", latitude=19.4326 + 2.01 / 111.195)
    make_shopper("corner", latitude=19.4326 + 0.0178, longitude=-99.1332 + 0.0178)
    make_shopper("new", segment="new")
    make_shopper("silent", notifications_enabled=False)
    make_shopper("nowhere", latitude=None, longitude=None)
    gone = make_shopper("gone")
    gone.is_active = False
    gone.save()
    make_promo(status=SCHEDULED, eligible_segments=["regular", "frequent"])
    assert promos.promos_open() == (1, 2)
    assert told() == {"near", "edge"}


def test_no_segments_means_all(make_promo, make_shopper):
    for segment in ("new", "frequent", "regular"):
        make_shopper(segment, segment=segment)
    make_promo(status=SCHEDULED)
    promos.promos_open()
    assert told() == {"new", "frequent", "regular"}


@pytest.mark.parametrize(
    ("store", "near", "far"),
    [
        ((0, 179.999), (0, -179.99), (0, -179.95)),
        ((0, -179.999), (0, 179.99), (0, 179.95)),
        ((89.995, 0), (89.995, 180), (89.97, 180)),
        ((-89.995, 10), (-89.995, -170), (-89.97, -170)),
        ((60, 10), (60, 10.035), (60, 10.037)),
    ],
)
def test_distance_holds_at_the_antimeridian_and_the_poles(
    make_store, make_promo, make_shopper, store, near, far
):
    make_shopper("near", latitude=near[0], longitude=near[1])
    make_shopper("far", latitude=far[0], longitude=far[1])
    make_promo(store=make_store(latitude=store[0], longitude=store[1]), status=SCHEDULED)
    promos.promos_open()
    assert told() == {"near"}


latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@given(latitudes, longitudes, latitudes, longitudes, st.floats(0.001, 20_100))
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_search_boxes_hold_every_place_in_reach(db, lat1, lon1, lat2, lon2, km):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT promotions_distance_km(%s, %s, %s, %s) <= %s, "
            "(SELECT count(*) FROM promotions_boxes(%s, %s, %s) AS near(box) "
            " WHERE point(%s, %s) <@ box)",
            [lat1, lon1, lat2, lon2, km, lat1, lon1, km, lon2, lat2],
        )
        in_reach, boxes = cursor.fetchone()
    assert boxes <= 1, "a shopper in two boxes would be told twice"
    assert boxes == 1 or not in_reach


def test_the_spatial_index_serves_the_search(make_store):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(
            "EXPLAIN SELECT 1 FROM promotions_store store "
            "CROSS JOIN LATERAL promotions_boxes(latitude, longitude, 2) AS near(box) "
            "JOIN promotions_shopperprofile s ON point(s.longitude, s.latitude) <@ near.box "
            "WHERE s.notifications_enabled"
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "shopper_point" in plan


def test_a_shopper_is_told_once_a_day_of_their_own(make_promo, make_shopper):
    make_shopper("kiritimati", time_zone="Pacific/Kiritimati")
    make_shopper("midway", time_zone="Pacific/Midway")
    for _ in range(3):
        make_promo(status=SCHEDULED)
    assert promos.promos_open() == (3, 2)
    days = Notification.objects.order_by("-local_day").values_list("shopper__username", "local_day")
    # The two zones are 25 hours apart: never the same day.
    assert [name for name, _ in days] == ["kiritimati", "midway"]
    assert days[0][1] > days[1][1]


def test_a_promo_is_announced_on_demand_only_while_open(make_promo, make_shopper):
    make_shopper()
    assert promos.promo_notify(make_promo(status=SCHEDULED).pk) == 0
    promo = make_promo()
    assert promos.promo_notify(promo.pk) == 1
    assert promos.promo_notify(promo.pk) == 0


@pytest.mark.django_db(transaction=True)
def test_promos_too_slow_to_announce_at_once_open_in_smaller_batches(make_promo, monkeypatch):
    monkeypatch.setattr(promos, "BATCH", 20)
    monkeypatch.setattr(promos, "OPEN_SECONDS", 1.0)
    for _ in range(25):
        make_promo(status=SCHEDULED)
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION crowd() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$;"
            "CREATE TRIGGER crowd BEFORE UPDATE OF status ON promotions_flashpromo "
            "FOR EACH ROW EXECUTE FUNCTION crowd()"
        )
    try:
        assert promos.promos_open() == (25, 0)
        monkeypatch.setattr(promos, "OPEN_SECONDS", 0.05)
        make_promo(status=SCHEDULED)
        with pytest.raises(OperationalError, match="statement timeout"):
            promos.promos_open()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION crowd CASCADE")


@pytest.mark.django_db(transaction=True)
def test_two_runs_at_once_open_each_promo_and_tell_each_shopper_once(
    make_promo, make_shopper, monkeypatch
):
    monkeypatch.setattr(promos, "BATCH", 3)
    for _ in range(20):
        make_shopper()
        make_promo(status=SCHEDULED)

    def run(_: int) -> tuple[int, int]:
        try:
            return promos.promos_open()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert sum(opened for opened, _ in results) == 20
    assert sum(notified for _, notified in results) == Notification.objects.count() == 20


@pytest.mark.django_db(transaction=True)
def test_a_run_beside_one_that_works_finds_nothing_and_does_not_wait(make_promo):
    make_promo(status=SCHEDULED)
    make_promo(starts_at=timezone.now() - 2 * HOUR, ends_at=timezone.now() - HOUR)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT 1 FROM promotions_flashpromo FOR UPDATE")

        def run() -> tuple[int, tuple[int, int], dict[str, int]]:
            try:
                with connection.cursor() as other:
                    other.execute("SET lock_timeout = 1")
                return promos.promos_close(), promos.promos_open(), promos.promos_cleanup()
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(run).result() == (0, (0, 0), {"removed": 0, "archived": 0})
        cursor.execute("ROLLBACK")


@pytest.fixture
def make_past_promo(make_promo):
    def make(days: int = 31):
        end = timezone.now() - timedelta(days=days)
        return make_promo(status=FlashPromo.Status.EXPIRED, starts_at=end - HOUR, ends_at=end)

    return make


def test_cleanup_removes_what_sold_nothing_with_all_its_traces(make_past_promo, make_shopper):
    promo, kept = make_past_promo(), make_past_promo(days=29)
    Reservation.objects.create(
        promo=promo, shopper=make_shopper(), reserved_until=promo.ends_at, status="EXPIRED"
    )
    Notification.objects.create(
        promo=promo, shopper=make_shopper(), local_day=promo.ends_at.date(), channel="in_app"
    )
    assert promos.promos_cleanup() == {"removed": 1, "archived": 0}
    assert list(FlashPromo.objects.all()) == [kept]
    assert not Reservation.objects.exists()
    assert not Notification.objects.exists()


def test_cleanup_archives_what_sold_something(make_past_promo, make_shopper):
    promo = make_past_promo()
    sale = Reservation.objects.create(
        promo=promo, shopper=make_shopper(), reserved_until=promo.ends_at, status="COMPLETED"
    )
    assert promos.promos_cleanup() == {"removed": 0, "archived": 1}
    promo.refresh_from_db()
    assert promo.status == FlashPromo.Status.ARCHIVED
    assert list(promo.reservations.all()) == [sale]


def test_cleanup_waits_for_an_open_hold(make_past_promo, make_shopper):
    promo = make_past_promo()
    Reservation.objects.create(
        promo=promo, shopper=make_shopper(), reserved_until=timezone.now() + HOUR
    )
    assert promos.promos_cleanup() == {"removed": 0, "archived": 0}


def test_cleanup_goes_on_over_many_batches(make_past_promo, monkeypatch):
    monkeypatch.setattr(promos, "CLEANUP_BATCH", 2)
    for _ in range(5):
        make_past_promo()
    assert promos.promos_cleanup() == {"removed": 5, "archived": 0}


def test_a_cancelled_promo_stays_cancelled(make_promo):
    promo = make_promo(status=SCHEDULED)
    assert promos.promo_cancel(promo).status == FlashPromo.Status.CANCELLED
    assert promos.promo_cancel(promo).status == FlashPromo.Status.CANCELLED
    assert promos.promos_open() == (0, 0)


def test_a_promo_that_is_over_cannot_be_cancelled(make_past_promo):
    with pytest.raises(PromoClosed):
        promos.promo_cancel(make_past_promo())
