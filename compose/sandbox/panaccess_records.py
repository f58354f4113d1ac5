"""Telemetry records, each made from its number alone: none is stored, and a restart tells the same.

A recordId is always a number; another number of a record comes as a digit string now and then.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import blake2b
from typing import Any

Record = dict[str, Any]

#: When record 0 happened.
EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
#: What a datetime can tell after it, in every time zone.
LONGEST = timedelta(days=365 * 7900).total_seconds()

SUBSCRIBERS = 3000
#: In so many records each channel has changed its name once, one after another.
RENAMED_WITHIN = 40_000

CHANNELS = (
    "Canal Uno", "Señal Andina", "Televisión del Valle", "Noticias 24", "Fútbol Más",
    "Cine Clásico", "Música Total", "Niños TV", "Documental Océano", "Cocina Fácil",
    "Canal del Río", "Teleñandú", "Acción", "Pasión Deportes", "Comedia Ya", "Historia Viva",
    "Región Norte", "Región Sur", "Mañanas", "Corazón", "Ciencia y Razón", "Novelas Doradas",
    "Misión Cumplida", "Canal Árbol", "Telepaís", "Útil", "Motor", "Viajes", "Arte",
    "Rock en Español", "Boleros", "Cumbia Sí", "Rural", "Clima", "Bolsa y Economía", "Debate",
    "Festival", "Animación", "Suspenso", "Último Minuto",
)  # fmt: skip
OTHER_ACTIONS = (
    (1, "APP_START"),
    (2, "APP_STOP"),
    (3, "LOGIN"),
    (5, "VOD_PLAY"),
    (6, "PURCHASE"),
    (9, "SEARCH"),
)
COUNTRIES = ("AR", "BO", "CL", "CO", "CR", "EC", "ES", "MX", "PE", "UY")
PROVIDERS = ("Fibra Ejemplo", "Cable del Este", "Móvil Ñandú", "Red Rural", "Conexión Sur", "")
#: For documentation, by RFC 5737: nobody's addresses.
NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
#: Those that may come as a digit string.
NUMBERS = ("deviceId", "dataId", "dataDuration", "ipId")


def _dice(what: str) -> bytes:
    """Thirty-two bytes that look thrown, and are the same each time."""
    return blake2b(what.encode(), digest_size=32).digest()


def _blank(die: int) -> str | None:
    return "" if die % 2 else None


def _make_devices() -> Iterator[Record]:
    """What a record tells of its subscriber, for each device that one has."""
    for subscriber in range(SUBSCRIBERS):
        home = _dice(f"subscriber {subscriber}")
        for device in range(1 + home[0] % 3):
            dice = _dice(f"device {subscriber} {device}")
            number = 3 * subscriber + device
            yield {
                "subscriberCode": f"S{10_000 + subscriber}",
                "deviceId": 50_000 + number,
                "smartcardId": str(800_000_000 + number) if dice[0] < 128 else _blank(dice[1]),
                "whoisCountry": COUNTRIES[home[1] % len(COUNTRIES)],
                "whoisIsp": PROVIDERS[home[2] % len(PROVIDERS)],
                "ipId": int.from_bytes(dice[2:5], "big"),
                "ip": f"{NETWORKS[home[3] % len(NETWORKS)]}.{1 + dice[5] % 254}",
                "profileId": dice[6] % 5 or None,
            }


DEVICES = tuple(_make_devices())


def record_id(n: int) -> int:
    return _record_id(n, _dice(str(n)))


def _record_id(n: int, dice: bytes) -> int:
    """Ascending, with gaps."""
    return 1_000_000 + 3 * n + dice[0] % 3


def _channel_name(channel: int, n: int) -> str:
    """As it was then: each thousand records another channel changes its name."""
    shift = channel * RENAMED_WITHIN // len(CHANNELS)
    renamed = (n + shift) // RENAMED_WITHIN % 2
    return f"{CHANNELS[channel]} HD" if renamed else CHANNELS[channel]


def _action(n: int, dice: bytes) -> Record:
    """Of 256 records 38 tell a channel's name, 192 that it was watched, 26 something else."""
    if dice[1] >= 230:
        action, key = OTHER_ACTIONS[dice[2] % len(OTHER_ACTIONS)]
        price = 1.99 if key == "PURCHASE" else None
        return {
            "actionId": action,
            "actionKey": key,
            "dataNetId": None,
            "dataTsId": None,
            "dataServiceId": None,
            "dataId": None,
            "dataName": _blank(dice[3]),
            "dataPrice": price,
            "dataDuration": None,
        }
    told = dice[1] < 38
    # Low numbers are watched the most.
    channel = dice[2] * dice[3] * len(CHANNELS) >> 16
    return {
        "actionId": 7 if told else 8,
        "actionKey": "CHANNEL_NAME" if told else "CHANNEL_WATCHED",
        "dataNetId": 1,
        "dataTsId": 1 + channel // 8,
        "dataServiceId": 100 + channel,
        "dataId": 2_000 + 7 * channel,
        "dataName": _channel_name(channel, n) if told else _blank(dice[4]),
        "dataPrice": None,
        "dataDuration": None if told else 1 + dice[5] * dice[6] // 9,
    }


def _strangers(n: int, dice: bytes) -> Record:
    """Fields that nobody documented: one of some records, one that comes and goes with time."""
    fields: Record = {}
    if dice[10] < 25:
        fields["appVersion"] = f"4.{dice[11] % 10}"
    if n // 500 % 3 == 1:
        fields["signal"] = {"level": dice[12] % 100, "unit": "%"}
    return fields


class Records:
    """The vendor's: one each `seconds`, told in the time of its zone."""

    def __init__(self, seconds: float, zone: tzinfo) -> None:
        self.seconds = seconds
        self.most = int(LONGEST / seconds)
        self._zone = zone
        self._start = EPOCH.timestamp()

    def ended(self) -> int:
        """The number of the first record that is still to come."""
        past = time.time() - self._start
        return max(0, min(int(past // self.seconds) + 1, self.most))

    def make(self, n: int) -> Record:
        dice = _dice(str(n))
        moment = self._start + n * self.seconds
        then, stored = self._told(moment), self._told(moment + dice[7] % 4)
        record = {
            "recordId": _record_id(n, dice),
            "anonymized": dice[8] < 5,
            **_action(n, dice),
            "date": then[:10],
            "timestamp": then,
            "manual": dice[8] > 250,
            "reasonId": dice[9] % 4 or None,
            "reasonKey": ("USER", "TIMER")[dice[9] % 2] if dice[9] % 4 else _blank(dice[13]),
            **DEVICES[int.from_bytes(dice[14:18], "big") % len(DEVICES)],
            "created": stored,
            **_strangers(n, dice),
        }
        if dice[18] < 5:
            name = NUMBERS[dice[19] % len(NUMBERS)]
            record[name] = None if record[name] is None else str(record[name])
        return record

    def _told(self, moment: float) -> str:
        return datetime.fromtimestamp(moment, self._zone).isoformat(" ")[:19]


class Shelf:
    """The numbers of the records that the vendor has now."""

    def __init__(self, records: Records, kept: int) -> None:
        self._records = records
        self._kept = kept
        self.reset()

    def reset(self) -> None:
        """Go by the clock."""
        self._frozen: range | None = None
        self._purged = 0

    def freeze(self, first: int, end: int) -> None:
        self._frozen, self._purged = range(first, end), 0

    def purge(self, records: int) -> None:
        """Forget the oldest."""
        self._purged = self.numbers().start + records

    def numbers(self) -> range:
        numbers = self._frozen
        if numbers is None:
            end = self._records.ended()
            numbers = range(max(0, end - self._kept), end)
        return range(min(max(numbers.start, self._purged), numbers.stop), numbers.stop)


ABSENT = object()
#: None: it is no record at all.
BAD_WAYS: tuple[Callable[[Record], Record] | None, ...] = (
    None,
    lambda record: {"recordId": ABSENT},
    lambda record: {"recordId": f"R{record['recordId']}"},
    lambda record: {"timestamp": "2026-02-30 10:00:00"},
    lambda record: {"subscriberCode": f"{record['subscriberCode']}\0"},
    lambda record: {"deviceId": 2**64},
    lambda record: {"subscriberCode": {"code": record["subscriberCode"]}},
    lambda record: {"subscriberCode": f"{record['subscriberCode']}\ud800"},
)


def bad_record(record: Record, turn: int) -> object:
    """The record, malformed; the ways take turns."""
    way = BAD_WAYS[turn % len(BAD_WAYS)]
    if way is None:
        return "not an object"
    changed = record | way(record)
    return {name: value for name, value in changed.items() if value is not ABSENT}
