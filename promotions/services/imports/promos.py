"""A catalogue: stores, their products, the products' promos."""

from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from django.contrib.auth.models import User
from django.db import connection, transaction

from promotions.services.imports import cells
from promotions.services.imports.errors import ImportRefused
from promotions.services.imports.staging import (
    Counts,
    ImportResult,
    Progress,
    Sheet,
    Staging,
    upsert,
)


def _rules(row: Sequence[Any]) -> Iterator[str]:
    _, _, _, _, list_price, promo_price, _, starts_at, ends_at, _, _ = row
    if list_price and promo_price and promo_price >= list_price:
        yield f"promo_price {promo_price} is not below the list_price {list_price}"
    if starts_at and ends_at and ends_at <= starts_at:
        yield "ends_at is not after starts_at"


SHEET = Sheet(
    table="import_promo",
    columns={
        "store": ("text", cells.text(200)),
        "store_latitude": ("float8", cells.number(-90, 90)),
        "store_longitude": ("float8", cells.number(-180, 180)),
        "product": ("text", cells.text(200)),
        "list_price": ("numeric(12, 2)", cells.amount),
        "promo_price": ("numeric(12, 2)", cells.amount),
        "quantity": ("integer", cells.whole),
        "starts_at": ("timestamptz", cells.moment),
        "ends_at": ("timestamptz", cells.moment),
        "segments": ("varchar[]", cells.segments),
        "max_distance_km": ("float8", cells.distance),
    },
    rules=_rules,
)

_KNOWN_PRODUCT = """
    JOIN promotions_store store
        ON (store.name, store.latitude, store.longitude)
         = (line.store, line.store_latitude, line.store_longitude)
    JOIN promotions_product product ON (product.store_id, product.name) = (store.id, line.product)
"""

# The promo of the line, where it exists already.
_OLD_PROMO = """
    promotions_flashpromo old
        ON (old.product_id, old.starts_at, old.ends_at, old.eligible_segments)
         = (product.id, line.starts_at, line.ends_at, line.segments)
"""

_CONFLICTS = f"""
    SELECT line, format('list_price %s differs from %s on line %s, for the same product',
                        list_price, first_price, first_line)
    FROM (SELECT line, list_price, first_value(list_price) OVER same AS first_price,
                 first_value(line) OVER same AS first_line
          FROM import_promo
          WINDOW same AS (PARTITION BY store, store_latitude, store_longitude, product
                          ORDER BY line)) line
    WHERE list_price <> first_price
    UNION ALL
    SELECT line, format('repeats the promo on line %s', first_line)
    FROM (SELECT line, first_value(line) OVER same AS first_line
          FROM import_promo
          WINDOW same AS (PARTITION BY store, store_latitude, store_longitude, product,
                                       starts_at, ends_at, segments
                          ORDER BY line)) line
    WHERE line <> first_line
    UNION ALL
    SELECT line.line, format('quantity %s is below the %s units already held or sold',
                             line.quantity, old.held + old.completed)
    FROM import_promo line {_KNOWN_PRODUCT} JOIN {_OLD_PROMO}
    WHERE old.status = 'SCHEDULED' AND line.quantity < old.held + old.completed
"""

# A promo to come may itself get a lower price from the file; any other keeps its own.
_LIST_PRICES_TOO_LOW = f"""
    WITH lowered AS MATERIALIZED (
        SELECT line.*, product.id AS product_id FROM import_promo line {_KNOWN_PRODUCT}
        WHERE line.list_price < product.list_price)
    SELECT line.line, format('list_price %s is not above %s, the price of a promo of the product '
                             'that is scheduled or active', line.list_price, other.highest)
    FROM lowered line
    JOIN (SELECT old.product_id, max(old.promo_price) AS highest
          FROM promotions_flashpromo old
          WHERE old.status IN ('SCHEDULED', 'ACTIVE')
            AND old.product_id IN (SELECT product_id FROM lowered)
            AND NOT (old.status = 'SCHEDULED' AND EXISTS (
                SELECT FROM lowered product
                WHERE (product.product_id, product.starts_at, product.ends_at, product.segments)
                    = (old.product_id, old.starts_at, old.ends_at, old.eligible_segments)))
          GROUP BY old.product_id) other
        ON other.product_id = line.product_id AND other.highest >= line.list_price
"""

_STORES = """
    INSERT INTO promotions_store (name, latitude, longitude, owner_id)
    SELECT DISTINCT store, store_latitude, store_longitude, %(owner)s::integer FROM import_promo
    WHERE NOT EXISTS (
        SELECT FROM promotions_store
        WHERE (name, latitude, longitude) = (store, store_latitude, store_longitude))
    ON CONFLICT (name, latitude, longitude) DO NOTHING
"""
_STORES_TOTAL = """
    SELECT count(*)
    FROM (SELECT DISTINCT store, store_latitude, store_longitude FROM import_promo) places
"""

# Twice: what rises before the promos and what falls after them, so that at every moment each
# promo's price is below its product's.
_PRODUCTS = """
    INSERT INTO promotions_product AS target (store_id, name, list_price, stock)
    SELECT store.id, line.product, line.list_price, line.stock
    FROM (SELECT store, store_latitude, store_longitude, product, list_price,
                 max(quantity) AS stock
          FROM import_promo GROUP BY 1, 2, 3, 4, 5) line
    JOIN promotions_store store
        ON (store.name, store.latitude, store.longitude)
         = (line.store, line.store_latitude, line.store_longitude)
    LEFT JOIN promotions_product old ON (old.store_id, old.name) = (store.id, line.product)
    WHERE old.id IS NULL OR {change}
    ON CONFLICT (store_id, name) DO UPDATE SET list_price = excluded.list_price
    WHERE target.list_price <> excluded.list_price
"""
_PRODUCTS_RISING = _PRODUCTS.format(change="old.list_price < line.list_price")
_PRODUCTS_FALLING = _PRODUCTS.format(change="old.list_price > line.list_price")
_PRODUCTS_TOTAL = """
    SELECT count(*)
    FROM (SELECT DISTINCT store, store_latitude, store_longitude, product FROM import_promo) names
"""

_PROMOS = f"""
    INSERT INTO promotions_flashpromo AS target (product_id, promo_price, starts_at, ends_at,
        quantity, eligible_segments, max_distance_km)
    SELECT product.id, line.promo_price, line.starts_at, line.ends_at,
           line.quantity, line.segments, line.max_distance_km
    FROM import_promo line {_KNOWN_PRODUCT} LEFT JOIN {_OLD_PROMO}
    WHERE old.id IS NULL
       OR (old.status = 'SCHEDULED'
           AND (old.promo_price, old.quantity, old.max_distance_km)
            <> (line.promo_price, line.quantity, line.max_distance_km))
    ON CONFLICT (product_id, starts_at, ends_at, eligible_segments) DO UPDATE
    SET promo_price = excluded.promo_price, quantity = excluded.quantity,
        max_distance_km = excluded.max_distance_km
    WHERE target.status = 'SCHEDULED'
      AND (target.promo_price, target.quantity, target.max_distance_km)
       <> (excluded.promo_price, excluded.quantity, excluded.max_distance_km)
"""

_KEPT = f"""
    SELECT count(*) FROM import_promo line {_KNOWN_PRODUCT} JOIN {_OLD_PROMO}
    WHERE old.status <> 'SCHEDULED'
      AND (old.promo_price, old.quantity, old.max_distance_km)
       <> (line.promo_price, line.quantity, line.max_distance_km)
"""


def promos_import(
    *,
    file: TextIO,
    owner: str | None = None,
    skip_bad_rows: bool = False,
    progress: Progress = lambda: None,
) -> ImportResult:
    """Bring stores, products and promos to what the file, as `open_csv` opens it, says.

    `owner` is the username of whom the stores that it creates belong to. A promo that is no
    longer scheduled stays as it is; a new product's stock is its promos' largest quantity.
    Returns counts of `stores`, `products` and `promos`. Raises ImportRefused, and changes
    nothing, when the file or `owner` is wrong or, without `skip_bad_rows`, any row.
    """
    with transaction.atomic():
        owner_id = _user_id(owner) if owner is not None else None
        staging = Staging(SHEET)
        staging.fill(file, progress)
        staging.take_out(_CONFLICTS)
        staging.take_out(_LIST_PRICES_TOO_LOW)
        staging.decide(skip_bad_rows=skip_bad_rows)
        stores = upsert(_STORES, total=_STORES_TOTAL, params={"owner": owner_id})
        rising = upsert(_PRODUCTS_RISING, total=_PRODUCTS_TOTAL)
        promos = upsert(_PROMOS, total="SELECT count(*) FROM import_promo")
        falling = upsert(_PRODUCTS_FALLING, total="0")
        products = Counts(
            rising.created, rising.updated + falling.updated, rising.unchanged - falling.updated
        )
        with connection.cursor() as cursor:
            cursor.execute(_KEPT)
            (kept,) = cursor.fetchone()
    return ImportResult(
        {"stores": stores, "products": products, "promos": promos}, staging.bad_rows, kept
    )


def _user_id(username: str) -> int:
    user = User.objects.filter(username=username).first()
    if user is None:
        raise ImportRefused(f"There is no user {username!r} to own the stores.")
    return user.pk
