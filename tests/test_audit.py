"""The audit of the locked packages: pip-audit itself, asking a server of ours for advisories."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from deploy.embedded.servers import free_port

PROJECT = Path(__file__).resolve().parent.parent
ADVISORY = {
    "id": "GHSA-test-test-test",
    "aliases": ["CVE-2026-0001"],
    "affected": [
        {
            "package": {"name": "celery", "ecosystem": "PyPI"},
            "ranges": [
                {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]},
            ],
        }
    ],
}


class Advisories(ThreadingHTTPServer):
    #: By package.
    known: dict[str, Any] = {}


class Handler(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.server.known.get(query["package"]["name"])
        body = json.dumps({"vulns": [found]} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    server = Advisories(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "requirements", tmp_path / "requirements")
    (tmp_path / "scripts/lib").mkdir(parents=True)
    shutil.copy(PROJECT / "scripts/lib/audit.py", tmp_path / "scripts/lib")
    return tmp_path


def ignore(clone: Path, line: str) -> Path:
    file = clone / "requirements/ignored-vulnerabilities.txt"
    file.write_text(f"# a comment\n\n{line}\n")
    return file


def audit(clone: Path, port: int, **variables: str) -> "subprocess.CompletedProcess[str]":
    osv = {
        "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
        "PIP_AUDIT_OSV_URL": f"http://127.0.0.1:{port}/v1/query",
    }
    return subprocess.run(
        [sys.executable, clone / "scripts/lib/audit.py"],
        env=os.environ | osv | variables,
        capture_output=True,
        text=True,
    )


def test_nothing_is_said_where_nothing_is_known(clone: Path, advisories: Advisories) -> None:
    done = audit(clone, advisories.server_port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_known_vulnerability_fails_with_its_names(clone: Path, advisories: Advisories) -> None:
    advisories.known = {"celery": ADVISORY}
    done = audit(clone, advisories.server_port)
    assert done.returncode == 1
    assert done.stdout.startswith("celery 5.")
    assert done.stdout.endswith(": CVE-2026-0001 GHSA-test-test-test; fixed in 99.1\n")


def test_an_ignored_one_passes(clone: Path, advisories: Advisories) -> None:
    advisories.known = {"celery": ADVISORY}
    ignore(clone, "CVE-2026-0001  # only on another platform")
    done = audit(clone, advisories.server_port)
    assert (done.returncode, done.stdout) == (0, "")


def test_one_that_is_ignored_without_a_reason_is_refused(clone: Path) -> None:
    file = ignore(clone, "CVE-2026-0001")
    done = audit(clone, free_port())
    assert done.returncode == 1
    assert f"{file}, line 3: say after a # why CVE-2026-0001 is ignored" in done.stderr


def test_offline_it_says_so_and_passes_even_in_ci(clone: Path) -> None:
    done = audit(clone, free_port(), CI="true")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("MISSING: advisories; not all packages were audited: ")


def test_what_pip_audit_does_not_understand_fails(clone: Path) -> None:
    (clone / "requirements/base.txt").write_text("celery\n")
    done = audit(clone, free_port())
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
