"""Which id a request has, and that what it sets off goes by it."""

import logging

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from marketplace import consumer
from marketplace.context import (
    MAX_LENGTH,
    Context,
    ContextFilter,
    RequestIdMiddleware,
    belonging_to,
    current,
)


def ask(given: str | None = None, *, address: str = "127.0.0.1") -> tuple[str, str]:
    """The id while a request is answered, and the one that its answer tells."""
    seen = []

    def view(request):
        seen.append(current().request_id)
        return HttpResponse()

    headers = {"X-Request-ID": given} if given is not None else {}
    request = RequestFactory(REMOTE_ADDR=address, headers=headers).get("/")
    answer = RequestIdMiddleware(view)(request)
    return seen[0], answer["X-Request-ID"]


def test_the_answer_tells_the_id_and_nothing_is_left_of_it():
    inside, told = ask()
    assert inside == told
    assert current() == Context()
    assert ask()[0] != inside


@pytest.mark.parametrize("given", ["of-the-proxy", "a.b_C:d=9", "x" * MAX_LENGTH])
@pytest.mark.parametrize("address", ["127.0.0.1", ""])  # a UNIX socket has none
def test_a_trusted_proxy_s_id_is_taken(given, address):
    assert ask(given, address=address) == (given, given)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("of-a-stranger", "203.0.113.7"),
        ("", "127.0.0.1"),
        ("two words", "127.0.0.1"),
        ("line\nbreak", "127.0.0.1"),
        ("ñ", "127.0.0.1"),
        ("x" * (MAX_LENGTH + 1), "127.0.0.1"),
    ],
)
def test_any_other_gives_way_to_one_of_ours(given, address):
    assert ask(given, address=address)[1] != given


@pytest.mark.parametrize("value", [7, "", "two words", "x" * 65, ["a"]])
def test_a_message_with_a_senseless_id_is_refused(value):
    is_right, _ = consumer.HEADERS["request_id"]
    assert not is_right(value)
    assert is_right(None)
    assert is_right("one")


def test_a_record_is_told_what_it_belongs_to():
    record = logging.makeLogRecord({})
    with belonging_to(request_id="one", task_id="two", task_name="three"):
        ContextFilter().filter(record)
    told = vars(record)
    assert (told["request_id"], told["task_id"], told["task_name"]) == ("one", "two", "three")
