"""The simulator of vendor APIs, as a real process on a free port."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import requests

from tests.processes import wait_until

SANDBOX = Path(__file__).resolve().parent.parent / "compose" / "sandbox"


@dataclass
class Sandbox:
    process: "subprocess.Popen[bytes]"
    log: Path
    #: Of the vendor, for its client.
    url: str
    username: str
    password: str
    token: str
    http: requests.Session = field(default_factory=requests.Session)

    @property
    def root(self) -> str:
        return self.url.removesuffix("panaccess/")

    def fault(
        self,
        name: str,
        *,
        calls: int = 1,
        seconds: float | None = None,
        records: int | None = None,
    ) -> None:
        """Switch it on for the next calls, all of them with 0; without the rest: its defaults."""
        given = {"calls": calls, "seconds": seconds, "records": records}
        self.control("POST", f"faults/{name}", **given)

    def clear(self) -> None:
        self.control("DELETE", "faults")

    def freeze(self, first: int, end: int) -> None:
        """Exactly these records are available from now on."""
        self.control("POST", "records", first=first, end=end)

    def calls(self) -> dict[str, Any]:
        """`functions`, each with how often it was called, and `logins`, those that went well."""
        return self.control("GET", "calls")

    def control(self, method: str, path: str, **query: object) -> dict[str, Any]:
        response = self.http.request(method, self.url + path, params=query, timeout=30)  # type: ignore[arg-type]
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def call(self, function: str, **form: object) -> dict[str, Any]:
        """The whole answer of the vendor, whether it went well or not."""
        query = {"f": function, "requestMode": "function"}
        response = self.http.post(self.url, params=query, data=form, timeout=30)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def login(self, **changed: str) -> dict[str, Any]:
        hashed = md5(f"{self.password}_panaccess".encode(), usedforsecurity=False).hexdigest()
        form = {"username": self.username, "password": hashed, "apiToken": self.token}
        return self.call("login", **(form | changed))

    def page(self, session: str, offset: int, limit: int, order: str = "ASC") -> list[Any]:
        answer = self.call(
            "getListOfTelemetryRecords",
            sessionId=session,
            offset=offset,
            limit=limit,
            orderBy="recordId",
            orderDir=order,
        )
        assert answer["success"], answer["errorMessage"]
        entries: list[Any] = answer["answer"]["telemetryRecordEntries"]
        return entries

    def listing(self, order: str = "ASC", limit: int = 1000) -> list[dict[str, Any]]:
        """All available records, by one login and as many calls as it takes."""
        session = self.login()["answer"]
        records: list[dict[str, Any]] = []
        while entries := self.page(session, len(records), limit, order):
            records += entries
        return records


def command(**environ: str) -> dict[str, Any]:
    """How it is started, without what the caller's environment says of vendors."""
    ours = ("SANDBOX_", "PANACCESS_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        "args": [sys.executable, "-W", "error", str(SANDBOX)],
        "env": others | {"SANDBOX_BIND": "127.0.0.1:0"} | environ,
    }


@contextmanager
def running_sandbox(**environ: str) -> Iterator[Sandbox]:
    """It answers; ended at the end, when nothing may have gone wrong in it."""
    with NamedTemporaryFile(prefix="sandbox-", suffix=".log") as output:
        process = subprocess.Popen(**command(**environ), stdout=output, stderr=output)
        log = Path(output.name)
        try:
            with requests.Session() as http:
                http.trust_env = False
                yield Sandbox(
                    process=process,
                    log=log,
                    url=f"{_address(process, log)}panaccess/",
                    username=environ.get("PANACCESS_USERNAME", "sandbox"),
                    password=environ.get("PANACCESS_PASSWORD", "sandbox"),
                    token=environ.get("PANACCESS_API_TOKEN", "sandbox"),
                    http=http,
                )
            process.terminate()
            assert process.wait(30) == 0
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
            process.wait()
            # pytest shows it with a test that failed.
            print(*log.read_text().splitlines()[-100:], sep="\n")


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """It listens once it says where."""

    def told() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"listens on (\S+)\n", log.read_text())

    wait_until(told, what="the sandbox listens")
    match = told()
    assert match
    return match[1]
