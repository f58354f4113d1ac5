"""The demonstration: a small catalogue in Mexico City and shoppers around it.

Everything but the windows is the same at every run; the windows follow the hour, so a second run
within the hour changes nothing and a later one adds new promos.
"""

import csv
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO

from django.contrib.auth.models import User
from django.db import transaction

from promotions.services.imports import ImportResult, promos_import, shoppers_import

SHOPPER = "demo-shopper"
SHOPPERS = 300

#: Name, latitude and longitude of the store near which `demo-shopper` lives.
HOME = ("Centro Histórico", 19.4333, -99.1333)
#: Each store with its four products and their list prices.
STORES = {
    HOME: {"Talavera plate": 480, "Alebrije": 650, "Silver ring": 890, "Rebozo": 1200},
    ("Roma Norte", 19.4187, -99.1620): {
        "Coffee, 1 kg": 320,
        "Chocolate box": 210,
        "Mezcal": 780,
        "Vanilla pods": 260,
    },
    ("Condesa", 19.4110, -99.1740): {
        "Running shoes": 1900,
        "Yoga mat": 540,
        "Bicycle helmet": 870,
        "Backpack": 1150,
    },
    ("Polanco", 19.4330, -99.1950): {
        "Headphones": 2400,
        "Smart watch": 3900,
        'Tablet 10"': 5200,
        "Camera": 9800,
    },
    ("Coyoacán", 19.3500, -99.1620): {
        "Hammock": 950,
        "Guitar": 3100,
        "Puppet": 180,
        "Art book": 430,
    },
    ("Santa Fe", 19.3660, -99.2610): {
        "Blender": 1300,
        "Desk lamp": 620,
        "Office chair": 2700,
        "Kettle": 560,
    },
}

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
#: Start, counted from the hour's begin, and length of the promo of each of a store's products.
_WINDOWS = (
    (timedelta(0), 3 * _HOUR),
    (_HOUR, 3 * _HOUR),
    (_DAY, 4 * _HOUR),
    (3 * _DAY, _DAY),
)
_ZONES = ("America/Mexico_City",) * 6 + ("America/Cancun", "America/Tijuana", "UTC", "Asia/Tokyo")


@dataclass(frozen=True)
class Demo:
    """What a run made: counts, the hour (UTC) that it began from, and who may log in."""

    catalogue: ImportResult
    shoppers: ImportResult
    hour: datetime
    shopper: User


def demo_seed(*, now: datetime, password: str = "") -> Demo:
    """Import the demonstration as of `now`.

    A password becomes the one of the user `demo-shopper`, who lives near the first store and
    may reserve what is open there. Raises ImportRefused when the catalogue has been changed so
    that the demonstration contradicts it.
    """
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    with transaction.atomic():
        catalogue = promos_import(file=_csv(_promos(hour)))
        shoppers = shoppers_import(file=_csv(_shoppers()))
        shopper = User.objects.get(username=SHOPPER)
        if password and not shopper.check_password(password):
            shopper.set_password(password)
            shopper.save(update_fields=["password"])
    return Demo(catalogue, shoppers, hour, shopper)


def _csv(rows: Iterable[dict[str, object]]) -> StringIO:
    file = StringIO(newline="")
    first, *others = rows
    writer = csv.DictWriter(file, list(first))
    writer.writeheader()
    writer.writerows([first, *others])
    file.seek(0)
    return file


def _promos(hour: datetime) -> Iterator[dict[str, object]]:
    chance = random.Random("promos")  # noqa: S311
    for (store, latitude, longitude), products in STORES.items():
        for (product, price), (start, length) in zip(products.items(), _WINDOWS, strict=True):
            some = chance.choice(["", "new", "new|frequent", "frequent|regular"])
            yield {
                "store": store,
                "store_latitude": latitude,
                "store_longitude": longitude,
                "product": product,
                "list_price": price,
                "promo_price": f"{price * chance.choice([0.5, 0.6, 0.75]):.2f}",
                "quantity": chance.randrange(10, 60),
                "starts_at": (hour + start).isoformat(),
                "ends_at": (hour + start + length).isoformat(),
                "segments": "" if store == HOME[0] else some,
                "max_distance_km": chance.choice([2, 2, 3, 5]),
            }


def _shoppers() -> Iterator[dict[str, object]]:
    yield {
        "username": SHOPPER,
        "email": f"{SHOPPER}@example.com",
        "segment": "regular",
        "latitude": HOME[1] + 0.003,
        "longitude": HOME[2],
        "time_zone": _ZONES[0],
        "notifications": "on",
    }
    chance = random.Random("shoppers")  # noqa: S311
    for number in range(1, SHOPPERS):
        _, latitude, longitude = chance.choice(list(STORES))
        # Half of them within two kilometres, the rest up to twelve.
        km, course = 12 * chance.random() ** 2.6, chance.uniform(0, 2 * math.pi)
        north, east = km / 111.19 * math.cos(course), km / 111.19 * math.sin(course)
        name = f"{SHOPPER}-{number:03}"
        yield {
            "username": name,
            "email": f"{name}@example.com" if chance.random() < 0.8 else "",
            "segment": chance.choice(["new", "frequent", "regular"]),
            "latitude": round(latitude + north, 6),
            "longitude": round(longitude + east / math.cos(math.radians(latitude)), 6),
            "time_zone": chance.choice(_ZONES),
            "notifications": "on" if chance.random() < 0.85 else "off",
        }
