"""The rows that the cases share: shoppers of whom one in five is eligible, stores, products."""

from benchmarks.rounds import progress
from benchmarks.servers import calm, connect, execute

SHOPPERS = 1_000_000
PRODUCTS = 50_000
STORES = 1_000

#: The store of the cases that have shoppers near; a tenth of a degree is 11.1 km to the north.
HERE = (19.4326, -99.1332)
RADIUS_KM = 2.0
ELIGIBLE_SEGMENTS = ("frequent", "regular")

# One shopper in five is eligible. Of the others in the search box a fifth of all are outside the
# circle, in another segment, or told to be left alone; half of all live elsewhere. The kinds
# take turns from row to row, so no filter can skip whole pages.
_SHOPPERS = """
    INSERT INTO promotions_shopperprofile
        (user_id, segment, notifications_enabled, latitude, longitude, channel, time_zone)
    SELECT id,
           CASE WHEN kind = 2 THEN 'new'
                ELSE (ARRAY['frequent', 'regular'])[1 + id %% 2] END,
           NOT (kind = 4 AND id %% 20 < 10),
           CASE WHEN kind IN (0, 1, 2, 4) THEN %(latitude)s + dlat * spread * cos(angle)
                WHEN kind = 3 THEN %(latitude)s + dlat * (0.75 + 0.2 * spread)
                ELSE %(latitude)s + 1 + 20 * spread END,
           CASE WHEN kind IN (0, 1, 2, 4) THEN %(longitude)s + dlon * spread * sin(angle)
                WHEN kind = 3 THEN %(longitude)s + dlon * (0.75 + 0.2 * angle / 6.283186)
                ELSE %(longitude)s + 20 * (angle / 6.283186 - 0.5) END,
           'in_app',
           (ARRAY['UTC', 'America/Mexico_City', 'Europe/Madrid', 'America/Bogota'])[1 + id %% 4]
    FROM (SELECT id, id %% 10 AS kind,
                 (id::bigint * 7919 %% 100003)::float8 / 100003 * 0.99 AS spread,
                 (id::bigint * 104729 %% 99991)::float8 / 99991 * 2 * pi() AS angle,
                 degrees(%(km)s / 6371.0088) AS dlat,
                 degrees(%(km)s / 6371.0088) / cos(radians(%(latitude)s)) AS dlon
          FROM auth_user) place
"""

_USERS = """
    INSERT INTO auth_user (id, username, email, password, first_name, last_name, is_active,
                           is_staff, is_superuser, date_joined)
    SELECT n, 'shopper' || n, '', '!', '', '', NOT (n %% 20 = 14), false, false, now()
    FROM generate_series(1, %(shoppers)s) n
"""

# No shopper is near any of these: they lie in the other hemisphere.
_STORES = """
    INSERT INTO promotions_store (name, latitude, longitude)
    SELECT 'Store ' || n, -30 + n %% 37 * 0.1, 20 + n / 37 * 0.1 FROM generate_series(1, %s) n
"""
_PRODUCTS = """
    INSERT INTO promotions_product (store_id, name, list_price, stock)
    SELECT store.id, 'Product ' || n, 100, 1000
    FROM generate_series(1, %s) n
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM promotions_store
          WHERE name LIKE 'Store %%') store ON store.number = n %% %s
"""


def scaled(size: int, scale: float, least: int = 1) -> int:
    return max(least, round(size * scale))


def shoppers_make(scale: float) -> int:
    """Make the shoppers, once; return how many."""
    count = max(100, scaled(SHOPPERS, scale) // 20 * 20)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM promotions_shopperprofile")
        if cursor.fetchone() != (0,):
            return count
        progress(f"making {count:,} shoppers")
        cursor.execute("SET synchronous_commit = off")
        cursor.execute(_USERS, {"shoppers": count})
        cursor.execute(_SHOPPERS, {"latitude": HERE[0], "longitude": HERE[1], "km": RADIUS_KM})
    connection.close()
    calm("auth_user", "promotions_shopperprofile")
    return count


def products_make(scale: float) -> list[int]:
    """Make the stores that no shopper is near, and their products; return the products."""
    stores, products = scaled(STORES, scale, 10), scaled(PRODUCTS, scale, 100)
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(_STORES, [stores])
        cursor.execute(_PRODUCTS, [products, stores])
        cursor.execute("SELECT id FROM promotions_product ORDER BY id")
        ids = [row[0] for row in cursor.fetchall()]
    connection.close()
    execute("ANALYZE promotions_store", "ANALYZE promotions_product")
    return ids


def promo_make(name: str, quantity: int = 1) -> int:
    """Make an open promo in the middle of the shoppers; return its id."""
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO promotions_store (name, latitude, longitude) VALUES (%s, %s, %s) "
            "RETURNING id",
            [name, *HERE],
        )
        (store_id,) = cursor.fetchone() or (0,)
        cursor.execute(
            "INSERT INTO promotions_product (store_id, name, list_price) VALUES (%s, %s, 100) "
            "RETURNING id",
            [store_id, name],
        )
        (product_id,) = cursor.fetchone() or (0,)
        cursor.execute(
            "INSERT INTO promotions_flashpromo (product_id, promo_price, starts_at, ends_at, "
            "quantity, eligible_segments, max_distance_km, status) VALUES (%s, 60, "
            "now() - interval '1 minute', now() + interval '1 day', %s, %s, %s, 'ACTIVE') "
            "RETURNING id",
            [product_id, quantity, list(ELIGIBLE_SEGMENTS), RADIUS_KM],
        )
        (promo_id,) = cursor.fetchone() or (0,)
    connection.close()
    return int(promo_id)
