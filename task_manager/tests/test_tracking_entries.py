"""What is kept of a task's parameters and results."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import current_app, shared_task

from task_manager import entries
from task_manager.utils import track_task


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "db_password", "api_key", "apiKey", "Authorization", "token"]
)
def test_a_secret_is_masked_by_its_name(name):
    assert entries.bounded({"login": {name: "hunter2"}}) == {"login": {name: entries.MASK}}


def test_a_secret_given_by_position_is_masked():
    @shared_task(name="tests.login")
    def login(user, password):
        pass

    message = {"id": "1", "task": "tests.login"}
    entry = entries.of_message(message, ["ana", "hunter2"], {})
    assert entry["parameters"] == {"user": "ana", "password": entries.MASK}


def test_long_values_are_cut():
    kept = entries.bounded({"text": "x" * 10_000, "items": list(range(10_000))})
    assert kept["text"] == "x" * entries.MAX_TEXT + "…"
    assert len(kept["items"]) < entries.MAX_VALUES
    assert kept["items"][-1] == f"… {10_000 - len(kept['items']) + 1} more"


def test_deep_and_endless_values_end():
    endless: list[object] = []
    endless.append(endless)
    assert "…" in json.dumps(entries.bounded(endless), ensure_ascii=False)


def test_values_that_are_no_json_are_kept_as_text():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    value = {
        "at": datetime(2026, 11, 22, 9, 30),  # noqa: DTZ001
        "price": Decimal("9.90"),
        "key": UUID(int=1),
        "odd": Odd(),
        "set": {1},
        "bytes": b"raw",
    }
    assert entries.bounded(value) == {
        "at": "2026-11-22T09:30:00",
        "price": "9.90",
        "key": str(UUID(int=1)),
        "odd": "<Odd>",
        "set": [1],
        "bytes": "b'raw'",
    }


@pytest.mark.parametrize(
    ("user_id", "linked"),
    [(7, 7), ("7", 7), ("7x", None), (None, None), (-1, None), (2**40, None), (True, None)],
)
def test_the_user_is_the_parameter_user_id(user_id, linked):
    message = {"id": "1", "task": "tests.nothing"}
    assert entries.of_message(message, [], {"user_id": user_id}).get("user_id") == linked


def test_the_user_may_come_with_the_message():
    message = {"id": "1", "task": "tests.nothing", entries.USER_ID: 7}
    assert entries.of_message(message, [], {})["user_id"] == 7


def test_a_description_by_decorator_in_either_place():
    @shared_task(name="tests.under")
    @track_task("shop.under", "shop", "Under")
    def under(box_id):
        pass

    @track_task("shop.over", "shop", "Over")
    @shared_task(name="tests.over")
    def over(box_id):
        pass

    for name in ("under", "over"):
        known = entries.describe(f"tests.{name}")
        assert (known.name, known.module, known.description) == (
            f"shop.{name}",
            "shop",
            name.title(),
        )
        assert known.parameters == ("box_id",)


def test_a_task_without_a_decorator_is_described_by_itself():
    @shared_task(name="depot.tasks.pack", bind=True)
    def pack(self, box_id, *rest, fast=False):
        """Pack a box.

        With care.
        """

    known = entries.describe("depot.tasks.pack")
    assert (known.name, known.module, known.description) == (
        "depot.tasks.pack",
        "depot",
        "Pack a box.",
    )
    assert known.bind([1, 2, 3], {"fast": True}) == {"box_id": 1, "args": [2, 3], "fast": True}


def test_an_unknown_task_is_known_by_its_name():
    known = entries.describe("somewhere.else")
    assert (known.name, known.module, known.parameters) == ("somewhere.else", "somewhere", ())


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ({"sum": 3}, {"sum": 3}),
        ({"api_key": "hunter2", "sum": 3}, {"api_key": entries.MASK, "sum": 3}),
        ([{"Password": "hunter2"}], [{"Password": entries.MASK}]),
        ("año\x00", "año\ufffd"),
        (float("inf"), "inf"),
        ({"text": "x" * 5000}, {"text": "x" * entries.MAX_TEXT + "…"}),
    ],
)
def test_a_result_is_kept_as_its_parameters_are(result, kept):
    backend = current_app.backend
    stored: Any = backend.encode(
        {"status": "SUCCESS", "result": result, "traceback": None, "children": []}
    )
    assert json.loads(entries.result_json(backend, stored.encode())) == kept
