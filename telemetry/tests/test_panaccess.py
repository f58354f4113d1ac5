"""PanAccess' client against its simulator: whatever fails, it ends well or with a clear error."""

import gzip
import json
import logging
import traceback
from collections.abc import Callable
from hashlib import md5
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.embedded.servers import free_port
from telemetry.clients import panaccess
from telemetry.clients.panaccess import (
    CIRCUIT_FAILURES,
    TRIES,
    PanAccess,
    PanAccessAway,
    PanAccessError,
    password_hash,
)
from telemetry.tests.vendor import SESSION, Reply, entries, refusal, sound, vendor
from tests.sandbox import Sandbox

LIST = "getListOfTelemetryRecords"
FAULTS = ["error_500", "dropped", "malformed_json", "slow", "dripping"]
#: What the error says in the end.
LAST_WORDS = {
    "error_500": "HTTP 500",
    "dropped": "no answer (ConnectionError)",
    "malformed_json": "the answer is no JSON",
    "slow": "no whole answer within 0.5 s",
    "dripping": "no whole answer within 0.5 s",
}


def md5_of(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def page(client: PanAccess | None = None, offset: int = 0, limit: int = 1000) -> list[Any]:
    if client:
        return client.telemetry_records(offset=offset, limit=limit)
    with PanAccess() as own:
        return own.telemetry_records(offset=offset, limit=limit)


@pytest.fixture
def fail_with(sandbox: Sandbox, settings: Any) -> Callable[..., None]:
    """Switch a fault on; an answer that is late because of it is not waited for long."""

    def switch_on(fault: str, *, calls: int = 0) -> None:
        if fault in ("slow", "dripping"):
            settings.PANACCESS_TIMEOUT_SECONDS = 0.5
            sandbox.fault(fault, calls=calls, seconds=3600)
        else:
            sandbox.fault(fault, calls=calls)

    return switch_on


@pytest.fixture
def use(circuit: None, settings: Any) -> Callable[[str], None]:
    """The client goes to this address, with credentials that would be noticed."""

    def give(url: str) -> None:
        settings.PANACCESS_URL = url
        settings.PANACCESS_USERNAME = "ana-of-panaccess"
        settings.PANACCESS_PASSWORD = "hunter2hunter2"
        settings.PANACCESS_API_TOKEN = "token-of-panaccess"

    return give


# --- Signing in ---
@pytest.mark.parametrize(
    ("password", "hashed"),
    [
        ("pa ss", md5_of("pa ss_panaccess")),
        ("ñandú", md5_of("ñandú_panaccess")),
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcdef"),
        ("0123456789abcdef0123456789abcde", None),
        ("0123456789abcdef0123456789abcdef\n", None),
        ("g123456789abcdef0123456789abcdef", None),
    ],
)
def test_a_password_is_sent_as_its_hash(password, hashed):
    expected = hashed or md5_of(f"{password}_panaccess")
    assert password_hash(password) == expected


@pytest.mark.parametrize("change", [str, password_hash, lambda text: password_hash(text).upper()])
def test_a_plain_password_and_its_hash_both_sign_in(sandbox, settings, change):
    settings.PANACCESS_PASSWORD = change(sandbox.password)
    assert page() == sandbox.listing()


def test_one_login_is_for_all_calls(sandbox, called):
    expected = sandbox.listing()
    called()
    with PanAccess() as client:
        assert page(client, 0, 40) + page(client, 40, 40) + page(client, 80, 40) == expected
        assert page(client, 100) == []
    assert called() == {"login": 1, LIST: 4}


def test_an_expired_session_is_renewed_once_and_the_call_repeated(sandbox, called):
    with PanAccess() as client:
        page(client)
        called()
        sandbox.fault("expired_session")
        assert len(page(client)) == 100
        assert called() == {"login": 1, LIST: 2}
        page(client)
        assert called() == {LIST: 1}


@pytest.mark.parametrize("message", ["Your session ended", "SESSION", "You are not Logged in"])
def test_what_speaks_of_session_or_logged_asks_for_a_login(use, message):
    answers = [refusal(message), entries([{"recordId": 1}])]
    with vendor(lambda form: answers.pop(0)) as server:
        use(server.url)
        assert page() == [{"recordId": 1}]
    assert server.functions == ["login", LIST, "login", LIST]


def test_a_session_that_expires_again_at_once_is_an_error(sandbox, called):
    sandbox.fault("expired_session", calls=0)
    with pytest.raises(PanAccessError, match=r"has expired .*, and again after a new login"):
        page()
    assert called() == {"login": 2, LIST: 2}


def test_a_login_that_is_refused_for_its_session_is_not_tried_for_ever(use):
    with vendor(lambda form: sound([]), lambda form: refusal("No session left")) as server:
        use(server.url)
        with pytest.raises(PanAccessError, match=r"^login: No session left$"):
            page()
    assert server.functions == ["login"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("PASSWORD", "wrong"), ("USERNAME", "nobody"), ("API_TOKEN", ""), ("API_TOKEN", "wrong")],
)
def test_a_wrong_login_is_an_error_at_once(sandbox, settings, called, setting, value):
    setattr(settings, f"PANACCESS_{setting}", value)
    with pytest.raises(PanAccessError, match=r"^login: Wrong username, password or API token$"):
        page()
    assert called() == {"login": 1}


@pytest.mark.parametrize("setting", ["PANACCESS_USERNAME", "PANACCESS_PASSWORD"])
def test_without_a_login_nothing_is_asked(sandbox, settings, called, setting):
    setattr(settings, setting, "")
    with pytest.raises(PanAccessError, match="PANACCESS_USERNAME and PANACCESS_PASSWORD must"):
        page()
    assert called() == {}


# --- Tries ---
@pytest.mark.parametrize("failures", range(1, TRIES))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_is_tried_again(sandbox, fail_with, called, fault, failures):
    with PanAccess() as client:
        expected = page(client, limit=10)
        called()
        fail_with(fault, calls=failures)
        assert page(client, limit=10) == expected
    assert called() == {LIST: failures + 1}


def test_a_login_that_fails_is_tried_again(sandbox, called):
    sandbox.fault("dropped", calls=2)
    assert len(page()) == 100
    assert called() == {"login": 3, LIST: 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_each_time_is_an_error(sandbox, fail_with, called, fault):
    with PanAccess() as client:
        page(client)
        called()
        fail_with(fault)
        with pytest.raises(PanAccessAway) as error:
            page(client)
    assert str(error.value) == f"{LIST}: {LAST_WORDS[fault]}"
    assert called() == {LIST: TRIES}


def test_a_body_that_stops_coming_is_an_error(use, settings):
    settings.PANACCESS_TIMEOUT_SECONDS = 0.5
    with vendor(lambda form: Reply(b'{"succ', headers={"Content-Length": "99"}, stalls=True)) as it:
        use(it.url)
        with pytest.raises(PanAccessAway, match=r"no whole answer within 0\.5 s"):
            page()
    assert it.functions == ["login", *[LIST] * TRIES]


def test_nobody_there_is_an_error(use):
    use(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(PanAccessAway, match=r"^login: no answer \(ConnectionError\)$"):
        page()


def test_waits_grow_and_are_drawn_by_lot():
    for attempt, most in [(1, 1), (2, 2), (3, 4), (9, 10)]:
        state: Any = SimpleNamespace(attempt_number=attempt)
        drawn = {panaccess.WAIT(state) for _ in range(50)}
        assert all(0 <= wait <= most for wait in drawn)
        assert max(drawn) > most / 2
        assert len(drawn) > 1


# --- Answers ---
def test_a_wrong_address_is_an_error_at_once(sandbox, settings, called):
    settings.PANACCESS_URL = f"{sandbox.url}elsewhere"
    with pytest.raises(PanAccessError, match=r"^login: HTTP 404; is PANACCESS_URL right\?$"):
        page()
    assert called() == {}


def test_a_redirection_is_not_followed(use):
    with vendor(lambda form: entries([])) as other:
        away = Reply(b"", 307, {"Location": other.url})
        with vendor(lambda form: entries([]), lambda form: away) as server:
            use(server.url)
            with pytest.raises(PanAccessError, match="HTTP 307"):
                page()
    assert (server.functions, other.functions) == (["login"], [])


def test_too_many_requests_are_tried_again(use):
    answers = [Reply(b"", 429), Reply(b"", 503), entries([1])]
    with vendor(lambda form: answers.pop(0)) as server:
        use(server.url)
        assert page() == [1]


@pytest.mark.parametrize("fits", [True, False])
def test_an_answer_may_not_be_longer_than_its_bound(use, monkeypatch, fits):
    body = entries(["x" * 300_000]).body
    monkeypatch.setattr(panaccess, "MAX_BYTES", len(body) - (not fits))
    packed = Reply(gzip.compress(body), headers={"Content-Encoding": "gzip"})
    with vendor(lambda form: packed) as server:
        use(server.url)
        if fits:
            assert page() == ["x" * 300_000]
        else:
            with pytest.raises(PanAccessError, match="the answer is longer than"):
                page()
    assert server.functions == ["login", LIST]


def test_an_answer_may_come_in_chunks(use):
    body = entries(list(range(5000))).body
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[at : at + 999]), body[at : at + 999])
        for at in range(0, len(body), 999)
    )
    reply = Reply(chunks + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked"})
    with vendor(lambda form: reply) as server:
        use(server.url)
        assert page() == list(range(5000))


def test_an_answer_that_breaks_off_is_tried_again(use):
    whole = entries([1])
    half = Reply(whole.body, headers={"Content-Length": str(len(whole.body) + 1)})
    answers = [half, whole]
    with vendor(lambda form: answers.pop(0)) as server:
        use(server.url)
        assert page() == [1]
    assert server.functions == ["login", LIST, LIST]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (b'"Se\xf1al"', "Se\ufffdal"),
        (b'"\\ud83d"', "\ud83d"),
        (b"18446744073709551616.0", 2.0**64),
        (b"1e999", float("inf")),
        (b"Infinity", float("inf")),
        ('"Señal \\u0000"'.encode(), "Señal \0"),
    ],
)
def test_one_odd_value_does_not_spoil_the_answer(use, told, expected):
    body = b'{"success": true, "answer": {"telemetryRecordEntries": [1, %s]}}' % told
    with vendor(lambda form: Reply(body)) as server:
        use(server.url)
        assert page() == [1, expected]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(b""), "the answer is no JSON"),
        (Reply(b"<html>"), "the answer is no JSON"),
        (Reply(b"[" * 100_000), "the answer is no JSON"),
        (Reply(b"[]"), "the answer is no JSON object"),
        (Reply(b"{}"), "no reason given"),
        (Reply(b'{"success": 1}'), "no reason given"),
        (refusal(None), "no reason given"),
        (refusal("Not\nallowed\0 \ud800"), "Not allowed   "),
        (refusal(f"No {'x' * 1000}"), f"No {'x' * 497}"),
        (sound(None), "the answer has no list telemetryRecordEntries"),
        (sound([]), "the answer has no list telemetryRecordEntries"),
        (entries({}), "the answer has no list telemetryRecordEntries"),
    ],
    ids=str,
)
def test_an_unsound_answer_is_an_error(use, reply, message):
    with vendor(lambda form: reply) as server:
        use(server.url)
        with pytest.raises(PanAccessError) as error:
            page()
    assert str(error.value) == f"{LIST}: {message}"


@pytest.mark.parametrize("answer", [None, "", 7, ["x"]])
def test_a_login_that_tells_no_session_is_an_error(use, answer):
    with vendor(lambda form: sound([]), lambda form: sound(answer)) as server:
        use(server.url)
        with pytest.raises(PanAccessError, match=r"^login: the answer is no session id$"):
            page()
    assert server.functions == ["login"]


# --- The circuit ---
def fail(client: PanAccess) -> str:
    with pytest.raises(PanAccessError) as error:
        page(client)
    return str(error.value)


def test_the_circuit_opens_after_so_many_failures_and_lets_nothing_through(sandbox, called):
    sandbox.fault("error_500", calls=0)
    with PanAccess() as client:
        while "not tried" not in fail(client):
            pass
        assert called() == {"login": CIRCUIT_FAILURES}
        sandbox.clear()
        assert fail(client) == (
            "login: not tried, since PanAccess failed 5 times in a row within the last 60 s"
        )
    assert called() == {}


def test_the_circuit_is_open_to_other_processes_too(sandbox, called, settings):
    settings.PANACCESS_URL, url = f"http://127.0.0.1:{free_port()}/", settings.PANACCESS_URL
    with PanAccess() as client:
        while "not tried" not in fail(client):
            pass
    settings.PANACCESS_URL = url
    panaccess.circuit.cache_clear()  # as in another process
    with PanAccess() as client:
        assert "not tried" in fail(client)
    assert called() == {}


def test_the_circuit_closes_when_a_call_gets_through_again(sandbox, called, broker):
    sandbox.fault("error_500", calls=CIRCUIT_FAILURES + 1)
    with PanAccess() as client:
        while "not tried" not in fail(client):
            pass
        called()
        let_circuit_time_pass(broker)
        # One try is let through; as it fails, no other.
        assert "not tried" in fail(client)
        assert called() == {"login": 1}
        assert "not tried" in fail(client)
        assert called() == {}
        let_circuit_time_pass(broker)
        assert len(page(client)) == 100
        sandbox.fault("error_500", calls=CIRCUIT_FAILURES - 1)
        assert "HTTP 500" in fail(client)
        assert len(page(client)) == 100


def let_circuit_time_pass(broker: Any) -> None:
    opened_at = int(broker.get("panaccess:pybreaker:opened_at"))
    broker.set("panaccess:pybreaker:opened_at", opened_at - panaccess.CIRCUIT_SECONDS)


def test_failures_that_are_not_in_a_row_do_not_open_the_circuit(sandbox):
    with PanAccess() as client:
        for _ in range(CIRCUIT_FAILURES):
            sandbox.fault("error_500", calls=TRIES - 1)
            assert len(page(client)) == 100


@pytest.mark.parametrize(("setting", "path"), [("PASSWORD", ""), ("URL", "/elsewhere")])
def test_refusals_do_not_open_the_circuit(sandbox, settings, setting, path):
    setattr(settings, f"PANACCESS_{setting}", f"{sandbox.url}{path}")
    with PanAccess() as client:
        told = {fail(client) for _ in range(CIRCUIT_FAILURES + 1)}
    assert len(told) == 1
    assert "not tried" not in told.pop()


# --- Secrets ---
def everything_told(caplog: pytest.LogCaptureFixture, error: BaseException | None) -> str:
    trace = "".join(traceback.format_exception(error)) if error else ""
    lines = [f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records]
    return "\n".join([*lines, caplog.text, trace, repr(error)])


@pytest.mark.parametrize("fault", [*FAULTS, "expired_session", "none", "wrong", "nobody there"])
def test_nothing_that_is_told_has_a_credential(sandbox, fail_with, settings, caplog, fault):
    caplog.set_level(logging.DEBUG)
    error = None
    with PanAccess() as client:
        page(client)
        session = client._session_id
        if fault == "nobody there":
            settings.PANACCESS_URL = f"http://127.0.0.1:{free_port()}/panaccess/"
        elif fault == "wrong":
            settings.PANACCESS_PASSWORD = "hunter2hunter2"
            client._session_id = ""
        elif fault != "none":
            fail_with(fault)
        try:
            page(client)
        except PanAccessError as raised:
            error = raised
    assert (error is None) == (fault == "none")
    told = everything_told(caplog, error)
    assert "urllib3.connectionpool" in told
    hashes = {password_hash(text) for text in ("sandbox", "hunter2hunter2")}
    assert not [secret for secret in {session, *hashes, "hunter2"} if secret in told]


@pytest.mark.parametrize("where", ["login", "listing", "ended"])
def test_credentials_that_panaccess_repeats_are_not_told(use, caplog, where):
    caplog.set_level(logging.DEBUG)

    def repeat(form: dict[str, str]) -> Reply:
        return refusal(f"No {'session' if where == 'ended' else ''} for {json.dumps(form)}")

    login = repeat if where == "login" else lambda form: sound(SESSION)
    with vendor(repeat, login) as server:
        use(server.url)
        with pytest.raises(PanAccessError, match=r"No .* for .*[*]{8}") as error:
            page()
    told = everything_told(caplog, error.value)
    hashed = password_hash("hunter2hunter2")
    secrets = ["ana-of-panaccess", "hunter2hunter2", hashed, "token-of-panaccess", SESSION]
    assert not [secret for secret in secrets if secret in told]


def test_a_call_and_each_further_try_leave_a_line(sandbox, caplog):
    caplog.set_level(logging.INFO)
    sandbox.fault("error_500")
    page(offset=20, limit=10)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "login: HTTP 500; trying again in 0.0 s"
    assert lines[1].startswith("login: ")
    assert lines[2] == "Logged in"
    assert lines[3].startswith(f"{LIST} offset=20 limit=10: ")
