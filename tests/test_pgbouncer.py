"""The application behind PgBouncer in transaction mode, set up as docs/scaling.md says."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from django.conf import settings
from django.db import connection

from deploy.embedded.servers import free_port, listens
from promotions import tasks
from promotions.models import FlashPromo
from telemetry.models import TelemetryRecordEntry
from telemetry.tasks import merge_ott_task, sync_telemetry_task
from tests.processes import celery, running, wait_until
from tests.sandbox import running_sandbox
from tests.test_worker_telemetry import worker as telemetry_worker

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

DOCS = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"


def documented(language: str, word: str) -> str:
    """The block of docs/scaling.md in this language that has this word."""
    blocks: list[str] = re.findall(
        rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL
    )
    return next(block for block in blocks if word in block)


@contextmanager
def pgbouncer() -> Iterator[int]:
    """Its port; it has two connections to the server, for all."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if not program:
        assert os.environ.get("CI") != "true", "pgbouncer is missing: install Debian's package"
        pytest.skip("MISSING: pgbouncer; the application was not tried behind it")
    port, database = free_port(), settings.DATABASES["default"]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        text = documented("ini", "pool_mode")
        text = re.sub(r"host=\S+ port=\d+", f"host=127.0.0.1 port={database['PORT']}", text)
        text = re.sub(r"(?m)^auth_file.*", f"auth_file = {folder}/users.txt", text)
        text = re.sub(r"(?m)^listen_addr.*", "listen_addr = 127.0.0.1", text)
        text = re.sub(r"(?m)^listen_port.*", f"listen_port = {port}", text)
        text = re.sub(r"(?m)^default_pool_size.*", "default_pool_size = 2", text)
        config, users = Path(folder, "pgbouncer.ini"), Path(folder, "users.txt")
        config.write_text(f"{text}\nunix_socket_dir =\n")
        users.write_text(f'"{database["USER"]}" "{database["PASSWORD"]}"\n')
        # It does not run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        with subprocess.Popen([program, *user, config], stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: listens(port), what="PgBouncer listens")
                yield port
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def pooled(worker_database: None) -> Iterator[dict[str, str]]:
    """The variables of a process behind it."""
    with pgbouncer() as port:
        yield {"POSTGRES_PORT": str(port), "POSTGRES_POOLED": "1"}


def test_a_worker_does_its_work(pooled, make_promo, make_shopper, queue, tmp_path):
    make_promo(status=FlashPromo.Status.SCHEDULED)
    make_shopper()
    log = tmp_path / "celery.log"
    with celery("worker", "--loglevel=info", "--concurrency=4", log=log, **pooled):
        results = [tasks.release_expired_reservations.delay() for _ in range(40)]
        opened = tasks.check_active_promos.delay().get(timeout=60)
        assert opened == {"closed": 0, "opened": 1, "notified": 1, "published": 1}
        assert tasks.process_notification_queue.delay().get(timeout=60)["delivered"] == 1
        assert [result.get(timeout=60) for result in results] == [{"released": 0}] * 40
    assert "Traceback" not in log.read_text()


def test_telemetry_is_synced_and_merged(pooled, tmp_path):
    """Its staging table is on each of the connections, and stays there."""
    with (
        running_sandbox() as sandbox,
        telemetry_worker(tmp_path / "celery.log", sandbox, **pooled),
    ):
        for end, new in ((2500, 2500), (2500, 0), (2600, 100)):
            sandbox.freeze(0, end)
            assert sync_telemetry_task.delay().get(timeout=60)["inserted"] == new
        merged = merge_ott_task.delay().get(timeout=60)["merged"]
    assert merged == TelemetryRecordEntry.objects.filter(action_id=8).count() > 0


def test_a_command_reads_row_by_row(pooled, tmp_path):
    command = ("manage.py", "dead_letters", "list")
    with running(*command, log=tmp_path / "log", **pooled) as process:
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_the_role_has_the_options_that_the_connection_cannot_give(worker_database):
    database = connection.settings_dict
    role = database["USER"]
    try:
        with connection.cursor() as cursor:
            cursor.execute(documented("sql", "lock_timeout").replace("marketplace", role))
        with pgbouncer() as port:
            names = {"dbname": database["NAME"], "user": role, "password": database["PASSWORD"]}
            # As the application asks elsewhere: it is not heard.
            pool = psycopg2.connect(port=port, host="127.0.0.1", options="-c jit=on", **names)
            with closing(pool), pool.cursor() as cursor:
                cursor.execute("SELECT current_setting('lock_timeout'), current_setting('jit')")
                assert cursor.fetchone() == ("10s", "off")
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {role} RESET ALL")
