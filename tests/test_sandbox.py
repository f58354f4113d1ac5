"""The simulator of PanAccess keeps to the protocol, and errs exactly as it was told to."""

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import md5
from http.client import HTTPConnection
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest
import requests

from tests.processes import wait_until
from tests.sandbox import Sandbox, command, running_sandbox

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
FIELDS = frozenset(
    re.findall(
        r"\w+",
        """
        recordId subscriberCode deviceId smartcardId anonymized actionId actionKey date timestamp
        manual reasonId reasonKey dataNetId dataTsId dataServiceId dataId dataName dataPrice
        dataDuration whoisCountry whoisIsp ipId ip profileId created
        """,
    )
)
FAULTS = (
    "slow",
    "dripping",
    "error_500",
    "malformed_json",
    "dropped",
    "expired_session",
    "duplicated_pages",
    "shifting_pages",
    "late_records",
    "bad_records",
)


@pytest.fixture
def sandbox(simulator: Sandbox) -> Sandbox:
    """Without faults, and with records 0 to 99."""
    simulator.clear()
    simulator.freeze(0, 100)
    return simulator


@pytest.fixture
def session(sandbox: Sandbox) -> str:
    return str(sandbox.login()["answer"])


@pytest.fixture(scope="module")
def records(simulator: Sandbox) -> list[dict[str, Any]]:
    """Ten thousand, among which some channels are renamed."""
    simulator.clear()
    simulator.freeze(20_000, 30_000)
    return simulator.listing()


def ids(records: list[Any]) -> list[int]:
    return [record["recordId"] for record in records]


def connection(sandbox: Sandbox) -> HTTPConnection:
    return HTTPConnection(urlsplit(sandbox.url).netloc, timeout=30)


def seen(sandbox: Sandbox) -> list[str]:
    """What it wrote."""
    return sandbox.log.read_text().splitlines()


# The protocol


def test_a_login_gives_a_session_of_its_own(sandbox: Sandbox) -> None:
    first, second = sandbox.login(), sandbox.login()
    assert first["success"] is True
    assert first["errorMessage"] is None
    assert first["answer"] != second["answer"]
    for login in (first, second):
        assert len(sandbox.page(login["answer"], 0, 10)) == 10


@pytest.mark.parametrize("field", ["username", "password", "apiToken"])
def test_a_wrong_login_is_refused(sandbox: Sandbox, field: str) -> None:
    answer = sandbox.login(**{field: "wrong"})
    assert answer == {
        "success": False,
        "answer": None,
        "errorMessage": "Wrong username, password or API token",
    }


def test_the_plain_password_is_no_login(sandbox: Sandbox) -> None:
    assert not sandbox.login(password=sandbox.password)["success"]


@pytest.mark.parametrize("hashed", [False, True])
def test_the_environment_says_who_may_log_in(hashed: bool) -> None:
    digest = md5(b"pa ss_panaccess", usedforsecurity=False).hexdigest()
    given = {
        "PANACCESS_USERNAME": "ana",
        "PANACCESS_PASSWORD": digest.upper() if hashed else "pa ss",
        "PANACCESS_API_TOKEN": "t",
    }
    with running_sandbox(**given) as sandbox:
        assert sandbox.login(password=digest)["success"]
        assert not sandbox.login(password=digest, username="sandbox")["success"]
        assert not sandbox.login(password=digest, apiToken="sandbox")["success"]
        assert not sandbox.login(password="0" * 32)["success"]


@pytest.mark.parametrize("form", [{}, {"sessionId": ""}, {"sessionId": "0" * 32}])
def test_without_a_session_nothing_is_listed(sandbox: Sandbox, form: dict[str, str]) -> None:
    answer = sandbox.call("getListOfTelemetryRecords", **form)
    assert answer == {"success": False, "answer": None, "errorMessage": "You are not logged in"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset", "-1"),
        ("offset", "x"),
        ("offset", ""),
        ("offset", "1" * 5000),
        ("offset", "1.0"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "\u0661"),
        ("orderBy", "timestamp"),
        ("orderBy", ""),
        ("orderDir", "asc"),
        ("orderDir", "\r\nforged"),
    ],
)
def test_a_wrong_parameter_is_named(sandbox: Sandbox, session: str, name: str, value: str) -> None:
    form = {"offset": "0", "limit": "10", "orderBy": "recordId", "orderDir": "ASC"}
    answer = sandbox.call(
        "getListOfTelemetryRecords", **({"sessionId": session} | form | {name: value})
    )
    assert not answer["success"]
    assert answer["errorMessage"].startswith(f"{name} must be ")
    assert len(answer["errorMessage"]) < 150
    missing = {key: value for key, value in form.items() if key != name}
    answer = sandbox.call("getListOfTelemetryRecords", sessionId=session, **missing)
    assert answer["errorMessage"].startswith(f"{name} must be ")


@pytest.mark.parametrize("query", ["", "?f=login", "?f=nothing&requestMode=function", "?%ff=%00"])
def test_an_unknown_function_or_mode_is_an_error_message(sandbox: Sandbox, query: str) -> None:
    response = sandbox.http.post(sandbox.url + query, timeout=30)
    assert response.status_code == 200
    assert not response.json()["success"]
    assert re.match("Unknown function|requestMode must be", response.json()["errorMessage"])


def test_pages_of_any_size_and_order_give_each_record_once(sandbox: Sandbox) -> None:
    sandbox.freeze(500, 3_000)
    whole = sandbox.listing()
    assert len(set(ids(whole))) == 2_500
    assert ids(whole) == sorted(ids(whole))
    assert sandbox.listing("DESC") == whole[::-1]
    assert sandbox.listing(limit=333) == whole
    assert sandbox.listing("DESC", limit=333) == whole[::-1]


def test_beyond_the_last_record_a_page_is_empty(sandbox: Sandbox, session: str) -> None:
    assert len(sandbox.page(session, 95, 10)) == 5
    for offset in (100, 10**17):
        assert sandbox.page(session, offset, 10) == []
        assert sandbox.page(session, offset, 10, "DESC") == []


# The records


def test_a_record_is_the_same_in_every_window_and_after_a_restart(sandbox: Sandbox) -> None:
    sandbox.freeze(1_000, 3_000)
    whole = sandbox.listing()
    sandbox.freeze(1_500, 1_600)
    assert sandbox.listing() == whole[500:600]
    with running_sandbox() as restarted:
        restarted.freeze(1_000, 3_000)
        assert restarted.listing() == whole


def test_every_record_is_well_formed(records: list[dict[str, Any]]) -> None:
    networks = [ip_network(f"{net}.0/24") for net in ("192.0.2", "198.51.100", "203.0.113")]
    for n, record in enumerate(records, 20_000):
        assert record.keys() >= FIELDS
        assert type(record["recordId"]) is int
        assert 1_000_000 + 3 * n <= record["recordId"] < 1_000_000 + 3 * (n + 1)
        then = EPOCH + timedelta(seconds=2 * n)
        assert record["timestamp"] == f"{then:%Y-%m-%d %H:%M:%S}"
        assert record["date"] == f"{then:%Y-%m-%d}"
        assert record["created"] >= record["timestamp"]
        assert any(ip_address(record["ip"]) in network for network in networks)
        for name in ("deviceId", "dataId", "dataDuration", "ipId"):
            assert record[name] is None or int(record[name]) < 2**63


def test_ids_have_gaps(records: list[dict[str, Any]]) -> None:
    steps = Counter(after - before for before, after in itertools.pairwise(ids(records)))
    assert steps.keys() == {1, 2, 3, 4, 5}


def test_most_records_tell_what_was_watched(records: list[dict[str, Any]]) -> None:
    actions = Counter(record["actionId"] for record in records)
    assert 1_300 < actions[7] < 1_700
    assert 7_200 < actions[8] < 7_800
    assert 850 < 10_000 - actions[7] - actions[8] < 1_200
    for record in records:
        if record["actionId"] == 7:
            assert record["dataId"]
            assert record["dataName"]
        if record["actionId"] == 8:
            assert record["dataId"]
            assert int(record["dataDuration"]) > 0
            assert not record["dataName"]


def test_forty_channels_of_which_some_are_renamed(records: list[dict[str, Any]]) -> None:
    names = defaultdict(list)
    for record in records:
        if record["actionId"] == 7:
            names[int(record["dataId"])].append(record["dataName"])
    watched = {int(record["dataId"]) for record in records if record["actionId"] == 8}
    assert len(watched) == 40
    assert len({len(set(told)) for told in names.values()}) == 2
    for told in names.values():
        assert len(list(itertools.groupby(told))) <= 2, "a name came back"
    assert any(re.search("[áéíóúñ]", told[0]) for told in names.values())


def test_a_few_thousand_subscribers_have_up_to_three_devices(
    records: list[dict[str, Any]],
) -> None:
    devices = defaultdict(set)
    for record in records:
        devices[record["subscriberCode"]].add(int(record["deviceId"]))
    assert len(devices) > 2_000
    assert {len(those) for those in devices.values()} == {1, 2, 3}
    assert len(set().union(*devices.values())) == sum(map(len, devices.values()))
    assert len({record["whoisCountry"] for record in records}) == 10


def test_values_are_as_untidy_as_a_vendors(records: list[dict[str, Any]]) -> None:
    for name in ("dataName", "smartcardId", "reasonKey"):
        values = [record[name] for record in records]
        assert values.count(None) > 500
        assert values.count("") > 500
    texts = Counter(
        name
        for record in records
        for name in ("deviceId", "dataId", "dataDuration", "ipId")
        if isinstance(record[name], str)
    )
    assert len(texts) == 4
    assert sum(texts.values()) < 500
    strange = Counter(name for record in records for name in record.keys() - FIELDS)
    assert strange
    assert max(strange.values()) < 5_000


def test_timestamps_are_told_in_the_zone(sandbox: Sandbox) -> None:
    with running_sandbox(PANACCESS_TIME_ZONE="America/Lima") as elsewhere:
        elsewhere.freeze(0, 100)
        there, here = elsewhere.listing(), sandbox.listing()
    assert here[0]["timestamp"] == "2025-01-01 00:00:00"
    assert there[0]["timestamp"] == "2024-12-31 19:00:00"
    assert there[0]["date"] == "2024-12-31"
    assert ids(there) == ids(here)


def test_by_default_records_come_and_go_with_the_clock() -> None:
    zone = ZoneInfo("America/Lima")
    settings = {
        "PANACCESS_TIME_ZONE": str(zone),
        "SANDBOX_PANACCESS_SECONDS": "0.01",
        "SANDBOX_PANACCESS_KEPT": "100",
    }
    with running_sandbox(**settings) as sandbox:
        before = sandbox.control("GET", "records")
        session = sandbox.login()["answer"]
        (newest,) = sandbox.page(session, 0, 1, "DESC")
        now = datetime.now(zone)
        wait_until(lambda: sandbox.control("GET", "records")["first"] > before["end"])
        after = sandbox.control("GET", "records")
    assert before["available"] == after["available"] == 100
    assert before["end"] - before["first"] == 100
    assert after["lowest_id"] > before["highest_id"]
    told = datetime.fromisoformat(newest["timestamp"]).replace(tzinfo=zone)
    assert now - timedelta(minutes=1) < told <= now


# What the sandbox adds


def test_frozen_records_are_told_until_the_clock_goes_on(sandbox: Sandbox) -> None:
    listed = ids(sandbox.listing())
    assert sandbox.control("GET", "records") == {
        "first": 0,
        "end": 100,
        "available": 100,
        "lowest_id": listed[0],
        "highest_id": listed[-1],
    }
    simulator = sandbox.control("DELETE", "records")
    assert simulator["available"] == 20_000
    assert simulator["highest_id"] > listed[-1]


def test_no_records_are_an_empty_listing(sandbox: Sandbox) -> None:
    sandbox.freeze(5, 5)
    assert sandbox.listing() == sandbox.listing("DESC") == []
    told = sandbox.control("GET", "records")
    assert told["available"] == 0
    assert told["lowest_id"] is told["highest_id"] is None


def test_calls_and_logins_are_counted(sandbox: Sandbox) -> None:
    before = sandbox.calls()
    session = sandbox.login()["answer"]
    sandbox.login(username="wrong")
    sandbox.page(session, 0, 10)
    sandbox.call("getListOfTelemetryRecords")
    sandbox.fault("dropped")
    with pytest.raises(requests.ConnectionError):
        sandbox.page(session, 0, 10)
    sandbox.call("nothing")
    after = sandbox.calls()
    more = Counter(after["functions"]) - Counter(before["functions"])
    assert more == {"login": 2, "getListOfTelemetryRecords": 3, "unknown function": 1}
    assert after["logins"] - before["logins"] == 1


@pytest.mark.parametrize(
    ("method", "path", "wrong"),
    [
        ("POST", "faults/nothing", "no fault 'nothing'"),
        ("DELETE", "faults/nothing", "no fault 'nothing'"),
        ("POST", "faults/slow?calls=-1", "calls must be"),
        ("POST", "faults/slow?calls=x", "calls must be"),
        ("POST", "faults/slow?calls=", "calls must be"),
        ("POST", "faults/slow?seconds=-1", "seconds must be"),
        ("POST", "faults/slow?seconds=nan", "seconds must be"),
        ("POST", "faults/slow?seconds=3601", "seconds must be"),
        ("POST", "faults/slow?records=1", "slow takes calls, seconds, not 'records'"),
        ("POST", "faults/bad_records?records=0", "records must be"),
        ("POST", "faults/bad_records?seconds=1", "takes calls, records, not 'seconds'"),
        ("POST", "faults/late_records?records=50", "records must be a whole number from 1 to 49"),
        ("POST", "faults/error_500?call=1", "error_500 takes calls, not 'call'"),
        ("POST", "records", "end must be"),
        ("POST", "records?first=1", "end must be"),
        ("POST", "records?end=1", "first must be"),
        ("POST", "records?first=2&end=1", "first must be a whole number from 0 to 1, not '2'"),
        ("POST", "records?first=-1&end=1", "first must be"),
        ("POST", "records?first=0&end=999999999999999999", "end must be"),
    ],
)
def test_wrong_use_of_a_switch_is_told(
    sandbox: Sandbox, method: str, path: str, wrong: str
) -> None:
    response = sandbox.http.request(method, sandbox.url + path, timeout=30)
    assert response.status_code == 400
    assert wrong in response.json()["error"]
    assert sandbox.control("GET", "faults") == {}
    assert sandbox.control("GET", "records")["available"] == 100


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nothing"),
        ("GET", "panaccess"),
        ("GET", "panaccess/"),
        ("GET", "panaccess/nothing"),
        ("POST", "panaccess/faults"),
        ("GET", "panaccess/faults/slow"),
        ("POST", "panaccess/calls"),
        ("PUT", "panaccess/records"),
        ("POST", "other/"),
        ("POST", ""),
        ("DELETE", "healthz"),
        ("PATCH", "panaccess/"),
        ("OPTIONS", "panaccess/"),
        ("GET", "[::1"),
    ],
)
def test_any_other_address_is_not_found(sandbox: Sandbox, method: str, path: str) -> None:
    with sandbox.http.request(method, sandbox.root + path, timeout=30) as response:
        assert response.status_code == 404
        assert response.json() == {"error": "not found"}


def test_it_is_well(sandbox: Sandbox) -> None:
    assert sandbox.http.get(f"{sandbox.root}healthz", timeout=30).text == "ok\n"


def test_everything_says_that_it_is_a_simulator(sandbox: Sandbox) -> None:
    for address in (sandbox.root, sandbox.url, f"{sandbox.url}faults"):
        response = sandbox.http.get(address, timeout=30)
        assert response.headers["Server"] == "Flash-Promos-Sandbox"
    sandbox.login()
    assert "simulator" in seen(sandbox)[0]
    assert seen(sandbox)[-1] == "panaccess login: logged in to the simulator, no real account"


def test_the_help_names_every_fault_and_address(sandbox: Sandbox) -> None:
    response = sandbox.http.get(sandbox.root, timeout=30)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "a simulator of vendor APIs" in response.text
    addresses = (
        "/healthz",
        "f=login",
        "getListOfTelemetryRecords",
        "/records",
        "/calls",
        "/faults",
    )
    for name in FAULTS + addresses:
        assert name in response.text


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_examples_of_the_help_run_as_they_stand(sandbox: Sandbox, session: str) -> None:
    text = sandbox.http.get(sandbox.root, timeout=30).text
    lines = re.findall(r"^  ((?:U=|PASSWORD=|curl )(?:.*\\\n)*.*)$", text, re.MULTILINE)
    script = "\n".join(lines).replace("http://127.0.0.1:8090/", sandbox.root)
    script = script.replace("SESSION", session).replace("curl ", "curl -fsS --noproxy '*' ")
    done = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    login, listing = re.findall(r'\{"success": .*?"errorMessage": \w+\}', done.stdout)
    assert json.loads(login)["success"]
    assert len(json.loads(listing)["answer"]["telemetryRecordEntries"]) == 10
    assert sandbox.control("GET", "faults") == {}


def test_a_connection_is_kept(sandbox: Sandbox) -> None:
    http = connection(sandbox)
    http.connect()
    first = http.sock
    bodies = []
    for method, path, body in (
        ("GET", "/healthz", None),
        ("POST", "/panaccess/?f=login", "username=a"),
        ("POST", "/panaccess/faults/nothing", None),
        ("HEAD", "/", None),
        ("GET", "/nothing", None),
        ("GET", "/panaccess/calls", None),
    ):
        http.request(method, path, body)
        response = http.getresponse()
        assert response.version == 11
        bodies.append(response.read())
        assert len(bodies[-1]) == int(response.headers["Content-Length"]) or method == "HEAD"
    assert http.sock is first
    assert bodies[3] == b""
    http.close()


@pytest.mark.parametrize(("size", "status"), [(65_536, 200), (65_537, 413), (1_000_000, 413)])
def test_a_body_has_64_kilobytes_at_most(sandbox: Sandbox, size: int, status: int) -> None:
    response = sandbox.http.post(sandbox.url, data="x" * size, timeout=30)
    assert response.status_code == status
    if status == 413:
        assert response.json() == {"error": "a body may have 65536 bytes"}


@pytest.mark.parametrize("header", ["Transfer-Encoding: chunked", "Content-Length: -1"])
def test_a_body_without_its_length_is_refused(sandbox: Sandbox, header: str) -> None:
    address = urlsplit(sandbox.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(f"POST /panaccess/ HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 411 ")
    assert json.loads(body) == {"error": "send the body with its Content-Length"}


def test_what_is_no_http_is_refused_in_json(sandbox: Sandbox) -> None:
    address = urlsplit(sandbox.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(b'FOO" / HTTP/1.1\r\nHost: a\r\n\r\n')
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501 ")
    assert "error" in json.loads(body)


def test_a_call_is_one_line_without_secrets(sandbox: Sandbox, session: str) -> None:
    before = len(seen(sandbox))
    sandbox.page(session, 20, 10)
    sandbox.fault("bad_records")
    sandbox.fault("malformed_json")
    with pytest.raises(ValueError, match="line 1 column"):
        sandbox.page(session, 0, 10)
    sandbox.call("x\nforged", offset="1\nforged")
    sandbox.call("getListOfTelemetryRecords", sessionId=session, offset="1\nforged")
    sandbox.login(password="marker-password", apiToken="marker-token")
    listing = "panaccess getListOfTelemetryRecords"
    assert seen(sandbox)[before:] == [
        f"{listing} offset=20 limit=10: 10 records",
        f"{listing} offset=0 limit=10: 10 records, bad_records, malformed_json",
        r"panaccess unknown function offset=1%0Aforged: refused: Unknown function 'x\nforged'",
        rf"{listing} offset=1%0Aforged: refused: offset must be a whole number from 0 to "
        rf"{10**18 - 1}, not '1\nforged'",
        "panaccess login: refused: Wrong username, password or API token",
    ]
    hashed = md5(b"sandbox_panaccess", usedforsecurity=False).hexdigest()
    for secret in (session, hashed, "marker"):
        assert secret not in sandbox.log.read_text()


# Its start and end


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("SANDBOX_BIND", "8090", "host:port"),
        ("SANDBOX_BIND", "127.0.0.1:x", "from 0 to 65535"),
        ("SANDBOX_BIND", "127.0.0.1:65536", "from 0 to 65535"),
        ("SANDBOX_BIND", "192.0.2.1:8090", "an address of this machine"),
        ("SANDBOX_BIND", "..:8090", "an address of this machine"),
        ("PANACCESS_TIME_ZONE", "Mars", "such as America/Lima"),
        ("PANACCESS_TIME_ZONE", "../etc", "such as America/Lima"),
        ("PANACCESS_TIME_ZONE", "America", "such as America/Lima"),
        ("SANDBOX_PANACCESS_SECONDS", "0", "from 0.001 to 86400"),
        ("SANDBOX_PANACCESS_SECONDS", "two", "from 0.001 to 86400"),
        ("SANDBOX_PANACCESS_SECONDS", "inf", "from 0.001 to 86400"),
        ("SANDBOX_PANACCESS_KEPT", "0", "from 1 to 1000000000"),
        ("SANDBOX_PANACCESS_KEPT", "1.5", "from 1 to 1000000000"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(name: str, value: str, right: str) -> None:
    done = subprocess.run(**command(**{name: value}), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert name in line
    assert value.rpartition(":")[2] in line
    assert right in line


def test_a_taken_port_is_one_clear_line(sandbox: Sandbox) -> None:
    bind = urlsplit(sandbox.url).netloc
    done = subprocess.run(**command(SANDBOX_BIND=bind), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"SANDBOX_BIND must be an address of this machine with a free port, not '{bind}'" in (
        done.stderr
    )


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--port", 2)])
def test_help_says_what_it_is(argument: str, code: int) -> None:
    start = command()
    start["args"].append(argument)
    done = subprocess.run(**start, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    text = done.stderr if code else done.stdout
    assert text.startswith("A simulator of vendor APIs")
    for name in (
        "SANDBOX_BIND",
        "PANACCESS_USERNAME",
        "PANACCESS_PASSWORD",
        "PANACCESS_API_TOKEN",
        "PANACCESS_TIME_ZONE",
        "SANDBOX_PANACCESS_SECONDS",
        "SANDBOX_PANACCESS_KEPT",
    ):
        assert name in text


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_slow_answer_holds_up_neither_others_nor_the_end(end: signal.Signals) -> None:
    with running_sandbox() as sandbox, ThreadPoolExecutor(2) as pool:
        for name in ("slow", "dripping"):
            sandbox.fault(name, seconds=3600)
            waiting = pool.submit(requests.post, sandbox.url, timeout=60)
            wait_until(lambda: sandbox.control("GET", "faults") == {}, what="the fault is used")
            assert sandbox.login()["success"]
            assert not waiting.done()
        sandbox.process.send_signal(end)
        assert sandbox.process.wait(30) == 0


# The faults


def test_a_fault_is_for_the_next_calls_only(sandbox: Sandbox, session: str) -> None:
    sandbox.fault("duplicated_pages", calls=2)
    pages = [ids(sandbox.page(session, offset, 10)) for offset in (10, 20, 20)]
    sandbox.clear()
    assert pages == [ids(sandbox.page(session, offset, 10)) for offset in (0, 10, 20)]


def test_a_fault_of_no_number_stays_until_it_is_switched_off(
    sandbox: Sandbox, session: str
) -> None:
    first = sandbox.page(session, 0, 10)
    for name in ("duplicated_pages", "bad_records"):
        sandbox.fault(name, calls=0)
    for _ in range(5):
        assert sandbox.page(session, 10, 10) != first
    sandbox.control("DELETE", "faults/bad_records")
    assert sandbox.page(session, 10, 10) == first
    sandbox.control("DELETE", "faults")
    assert sandbox.page(session, 0, 10) == first
    assert sandbox.page(session, 10, 10) != first


def test_what_is_switched_on_is_told(sandbox: Sandbox, session: str) -> None:
    for name in FAULTS:
        sandbox.fault(name)
    on = sandbox.control("GET", "faults")
    assert on.keys() == set(FAULTS)
    assert on["slow"] == {"calls_left": 1, "used": 0, "seconds": 60}
    assert on["dripping"]["seconds"] == 10
    assert on["error_500"] == {"calls_left": 1, "used": 0}
    assert on["shifting_pages"]["records"] == 7
    assert on["late_records"]["records"] == on["bad_records"]["records"] == 3
    sandbox.clear()
    sandbox.fault("bad_records", calls=0, records=5)
    sandbox.page(session, 0, 10)
    told = {"bad_records": {"calls_left": None, "used": 1, "records": 5}}
    assert sandbox.control("GET", "faults") == told
    assert sandbox.control("DELETE", "faults/bad_records") == {}
    assert sandbox.control("DELETE", "faults/bad_records") == {}


def test_calls_that_a_fault_does_not_apply_to_do_not_count(sandbox: Sandbox) -> None:
    own = [name for name in FAULTS[5:] if name != "expired_session"]
    for name in own:
        sandbox.fault(name)
    session = sandbox.login()["answer"]
    sandbox.call("nothing")
    sandbox.call("getListOfTelemetryRecords", sessionId=session, offset="x")
    sandbox.call("getListOfTelemetryRecords", sessionId="wrong")
    assert sandbox.control("GET", "faults").keys() == set(own)
    sandbox.page(session, 0, 10)
    assert sandbox.control("GET", "faults") == {}


def test_an_expired_session_is_forgotten(sandbox: Sandbox, session: str) -> None:
    other = sandbox.login()["answer"]
    sandbox.fault("expired_session")
    sandbox.call("getListOfTelemetryRecords", sessionId="wrong")
    sandbox.login()
    answer = sandbox.call("getListOfTelemetryRecords", sessionId=session)
    assert not answer["success"]
    assert "session" in answer["errorMessage"]
    answer = sandbox.call("getListOfTelemetryRecords", sessionId=session)
    assert answer["errorMessage"] == "You are not logged in"
    assert sandbox.page(other, 0, 10)
    assert sandbox.page(sandbox.login()["answer"], 0, 10)


def test_a_slow_answer_comes_after_its_seconds(sandbox: Sandbox, session: str) -> None:
    right = sandbox.page(session, 0, 10)
    sandbox.fault("slow", seconds=0.3)
    before = datetime.now(UTC)
    assert sandbox.page(session, 0, 10) == right
    assert datetime.now(UTC) - before >= timedelta(seconds=0.3)


def test_a_dripping_answer_takes_its_seconds(sandbox: Sandbox, session: str) -> None:
    sandbox.freeze(0, 1_000)
    right = sandbox.page(session, 0, 1_000)
    sandbox.fault("dripping", seconds=0.3)
    before = datetime.now(UTC)
    assert sandbox.page(session, 0, 1_000) == right
    assert datetime.now(UTC) - before >= timedelta(seconds=0.3)


def test_a_dripping_answer_comes_byte_by_byte(sandbox: Sandbox) -> None:
    sandbox.fault("dripping", seconds=20)
    http = connection(sandbox)
    http.request("POST", "/panaccess/")
    response = http.getresponse()
    assert response.read(1) == b"{"
    try:
        more = http.sock.recv(1000, socket.MSG_DONTWAIT)
    except BlockingIOError:
        more = b""
    assert len(more) < int(response.headers["Content-Length"]) - 1
    http.close()


def test_error_500_is_a_page(sandbox: Sandbox) -> None:
    sandbox.fault("error_500")
    response = sandbox.http.post(sandbox.url, timeout=30)
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<html>")
    assert sandbox.login()["success"]


def test_malformed_json_is_cut_off(sandbox: Sandbox, session: str) -> None:
    sandbox.fault("malformed_json")
    response = sandbox.http.post(sandbox.url, timeout=30)
    assert response.status_code == 200
    assert response.text.startswith('{"success"')
    with pytest.raises(ValueError, match="line 1 column"):
        response.json()
    assert sandbox.login()["success"]


def test_a_dropped_call_has_no_answer(sandbox: Sandbox) -> None:
    sandbox.fault("dropped")
    http = connection(sandbox)
    http.request("POST", "/panaccess/?f=login", "username=a")
    with pytest.raises(ConnectionError):
        http.getresponse()
    http.close()
    assert sandbox.login()["success"]


@pytest.mark.parametrize("order", ["ASC", "DESC"])
def test_a_duplicated_page_is_the_one_before(sandbox: Sandbox, session: str, order: str) -> None:
    whole = sandbox.listing(order)
    sandbox.fault("duplicated_pages", calls=3)
    assert sandbox.page(session, 30, 20, order) == whole[10:30]
    assert sandbox.page(session, 10, 20, order) == whole[:20]
    assert sandbox.page(session, 0, 20, order) == whole[:20]


def test_shifting_pages_lose_the_oldest(sandbox: Sandbox, session: str) -> None:
    whole = sandbox.listing()
    sandbox.fault("shifting_pages", calls=2)
    assert sandbox.page(session, 0, 10) == whole[:10]
    assert sandbox.page(session, 10, 10) == whole[17:27]
    assert sandbox.page(session, 0, 10) == whole[14:24]
    assert sandbox.control("GET", "records")["first"] == 14
    sandbox.fault("shifting_pages", records=1_000)
    assert sandbox.page(session, 0, 10, "DESC") == whole[::-1][:10]
    assert sandbox.page(session, 0, 10) == []
    sandbox.freeze(0, 100)
    assert sandbox.listing() == whole


@pytest.mark.parametrize("count", [1, 3, 49])
def test_late_records_are_left_out_until_it_is_off(sandbox: Sandbox, count: int) -> None:
    whole = sandbox.listing()
    sandbox.fault("late_records", calls=0, records=count)
    listed = sandbox.listing(limit=7)
    late = [n for n, record in enumerate(whole) if record not in listed]
    assert len(late) == count
    assert min(late) >= 50
    assert max(late) < 99
    assert listed == [record for n, record in enumerate(whole) if n not in late]
    assert sandbox.listing("DESC", limit=7) == listed[::-1]
    sandbox.freeze(0, 200)
    assert sandbox.listing()[: len(listed)] == listed, "they stay late while others come"
    sandbox.clear()
    assert sandbox.listing()[:100] == whole


def test_of_few_records_the_newest_is_never_late(sandbox: Sandbox) -> None:
    for available in (0, 1, 2):
        sandbox.freeze(0, available)
        whole = sandbox.listing()
        sandbox.fault("late_records", calls=0)
        assert sandbox.listing() == whole[-1:]
        sandbox.clear()


def test_bad_records_are_malformed_in_eight_ways(sandbox: Sandbox, session: str) -> None:
    right = sandbox.page(session, 0, 20)
    sandbox.fault("bad_records", records=8)
    page = sandbox.page(session, 0, 20)
    bad = [(before, after) for before, after in zip(right, page, strict=True) if before != after]
    assert page[0] == right[0]
    assert [before["recordId"] for before, after in bad[3:]] == ids([after for _, after in bad[3:]])
    stranger, without, word, day, nul, large, nested, surrogate = (after for _, after in bad)
    assert isinstance(stranger, str)
    assert without.keys() == bad[1][0].keys() - {"recordId"}
    assert not word["recordId"].isdigit()
    assert day["timestamp"] == "2026-02-30 10:00:00"
    assert "\0" in nul["subscriberCode"]
    assert large["deviceId"] >= 2**63
    assert isinstance(nested["subscriberCode"], dict)
    assert "\ud800" in surrogate["subscriberCode"]
    for before, after in bad[1:]:
        assert len([key for key in before if before[key] != after.get(key)]) == 1
    assert sandbox.page(session, 0, 20) == right


def test_the_ways_of_bad_records_take_turns(sandbox: Sandbox, session: str) -> None:
    right = sandbox.page(session, 0, 20)

    def bad() -> list[Any]:
        page = sandbox.page(session, 0, 20)
        return [after for before, after in zip(right, page, strict=True) if before != after]

    sandbox.fault("bad_records", records=8)
    ways = bad()
    sandbox.fault("bad_records", calls=0)
    turns = [bad() for _ in range(3)]
    assert [len(turn) for turn in turns] == [3, 3, 3]
    assert isinstance(turns[0][0], str)
    assert turns[1][0]["timestamp"] == ways[3]["timestamp"]
    assert "\ud800" in turns[2][1]["subscriberCode"]
    assert isinstance(turns[2][2], str)


def test_the_first_record_of_a_page_is_never_bad(sandbox: Sandbox, session: str) -> None:
    whole = sandbox.listing()
    sandbox.fault("bad_records", calls=0, records=1_000)
    assert sandbox.page(session, 0, 1) == whole[:1]
    page = sandbox.page(session, 0, 1_000)
    assert page[0] == whole[0]
    assert all(before != after for before, after in zip(whole[1:], page[1:], strict=True))
    assert sandbox.page(session, 200, 10) == []


def test_faults_are_counted_right_by_many_at_once(sandbox: Sandbox) -> None:
    sandbox.fault("error_500", calls=20)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: requests.post(sandbox.url, timeout=30).status_code, range(50))
        assert Counter(answers) == {500: 20, 200: 30}
