"""How a line looks, and that a file which several processes write to loses none."""

import json
import logging
import os
import subprocess
import sys
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from marketplace import logs
from marketplace.context import ContextFilter, belonging_to
from marketplace.env import Env
from marketplace.logs import JSONFormatter, SharedFileHandler, TextFormatter

OF_TASK = {"task_id": "4f1a", "task_name": "promotions.tasks.check_active_promos"}


def line(formatter: logging.Formatter, message: str = "Opened 3", **context: str) -> str:
    """What the formatter makes of a record in this context."""
    record = logging.LogRecord("promotions", logging.INFO, "", 0, message, None, None)
    record.created, record.msecs = 1_800_000_000.25, 250
    with belonging_to(**context):
        ContextFilter().filter(record)
    return formatter.format(record)


def text(*args: Any, **context: str) -> str:
    """Without the time, which is local."""
    return line(TextFormatter(), *args, **context).partition(": ")[2]


def test_lines_look_as_document_003_has_them():
    assert line(TextFormatter()).startswith("[2027-01-15 ")
    assert text() == "INFO/MainProcess] Opened 3"
    assert text(**OF_TASK) == (
        "INFO/MainProcess][promotions.tasks.check_active_promos(4f1a)] Opened 3"
    )


def test_a_line_that_names_its_task_names_it_once():
    assert text("Task a.b[4f1a] received", **OF_TASK) == (
        "INFO/MainProcess] Task a.b[4f1a] received"
    )


def test_a_request_is_named_wherever_there_is_one():
    assert text(request_id="6f0c") == "INFO/MainProcess] [request 6f0c] Opened 3"
    assert text(request_id="6f0c", **OF_TASK).endswith("(4f1a)] [request 6f0c] Opened 3")


def test_in_a_file_what_is_celery_s_has_its_prefix():
    formatter = TextFormatter(prefix="[CELERY]")
    assert line(formatter).endswith("] Opened 3")
    assert line(formatter, **OF_TASK).endswith("] [CELERY] Opened 3")
    assert line(TextFormatter(prefix="[CELERY]", prefix_all=True)).endswith("] [CELERY] Opened 3")


def test_a_line_of_celery_s_about_a_task_is_the_task_s():
    record = logging.LogRecord("celery.app.trace", logging.INFO, "", 0, "Done", None, None)
    record.data = {"id": "4f1a", "name": "a.b"}
    ContextFilter().filter(record)
    assert TextFormatter().format(record).endswith("[a.b(4f1a)] Done")


def test_json_is_one_object_a_line_with_what_is_known():
    written = line(JSONFormatter("worker"), "¡Listo!\n", request_id="6f0c", **OF_TASK)
    assert written.isascii()
    assert "\n" not in written
    assert json.loads(written) == {
        "time": "2027-01-15T08:00:00.250+00:00",
        "level": "INFO",
        "logger": "promotions",
        "message": "¡Listo!\n",
        "service": "worker",
        "process": "MainProcess",
        "pid": os.getpid(),
        "request_id": "6f0c",
        **OF_TASK,
    }
    assert json.loads(line(JSONFormatter())).keys() == {
        *("time", "level", "logger", "message", "process", "pid")
    }


def test_json_has_the_traceback():
    try:
        raise ValueError("no such promo")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "Failed", None, sys.exc_info())
    told = json.loads(JSONFormatter().format(record))
    assert told["exception"].startswith("Traceback")
    assert told["exception"].endswith("ValueError: no such promo")


@pytest.mark.parametrize(
    ("argv", "service"),
    [
        (["/srv/.venv/bin/gunicorn", "marketplace.asgi"], "web"),
        (["/lib/gunicorn/__main__.py"], "web"),
        (["/lib/celery/__main__.py", "-A", "marketplace", "worker", "-Q", "beat"], "worker"),
        (["celery", "-A", "marketplace", "beat"], "beat"),
        (["celery", "-A", "marketplace", "inspect"], "celery"),
        (["manage.py", "migrate"], "migrate"),
        (["manage.py"], "manage.py"),
        ([], ""),
    ],
)
def test_a_process_knows_which_service_it_is(argv, service):
    assert logs.service_of(argv) == service


# --- Files ---------------------------------------------------------------------------------------
WRITER = """
import logging, sys
from marketplace.logs import SharedFileHandler
handler = SharedFileHandler(sys.argv[1], max_bytes=20_000, backups=50)
for number in range(1000):
    message = f"{sys.argv[2]} {number} " + "x" * (number % 300) + "."
    handler.emit(logging.LogRecord("a", 20, "", 0, message, None, None))
"""


def test_several_processes_fill_a_file_and_lose_no_line(tmp_path):
    path = tmp_path / "django.log"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(number)]) for number in range(4)
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    files = list(tmp_path.iterdir())
    lines = "".join(file.read_text() for file in files).splitlines()
    assert all(line.endswith(".") for line in lines)
    assert sorted(tuple(map(int, line.split()[:2])) for line in lines) == [
        (process, number) for process in range(4) for number in range(1000)
    ]
    assert len(files) > 20
    assert max(file.stat().st_size for file in files) < 20_000 + 4 * 400


def emit(handler: logging.Handler, message: str) -> None:
    handler.emit(logging.LogRecord("a", logging.INFO, "", 0, message, None, None))


def test_of_full_files_the_oldest_goes(tmp_path):
    handler = SharedFileHandler(str(tmp_path / "a.log"), max_bytes=1, backups=2)
    for number in range(5):
        emit(handler, str(number))
    handler.close()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.log": "4\n",
        "a.log.1": "3\n",
        "a.log.2": "2\n",
    }


def test_a_file_that_somebody_else_moved_is_begun_anew(tmp_path):
    path = tmp_path / "a.log"
    handler = SharedFileHandler(str(path))
    emit(handler, "one")
    path.rename(tmp_path / "moved")
    emit(handler, "two")
    handler.close()
    assert (path.read_text(), (tmp_path / "moved").read_text()) == ("two\n", "one\n")


def test_a_folder_that_is_gone_stops_nobody_and_is_said_once(tmp_path):
    script = """
import logging, sys
from marketplace.logs import SharedFileHandler
logging.getLogger().addHandler(SharedFileHandler(sys.argv[1]))
for number in range(100):
    logging.getLogger().warning("line %s", number)
"""
    file = str(tmp_path / "gone" / "a.log")
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True)
    assert done.returncode == 0
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"{file} cannot be written: ")


# --- All of it -----------------------------------------------------------------------------------
@pytest.fixture
def restored():
    """The logging of the tests, once this one has had its own."""
    root = logging.getLogger()
    before = (root.level, [*root.handlers])
    yield
    telemetry = logging.getLogger("telemetry")
    for handler in {*root.handlers, *telemetry.handlers} - {*before[1]}:
        handler.close()
    root.level, root.handlers = before
    telemetry.handlers = []


def configured(service: str, **variables: str) -> None:
    dictConfig(logs.configuration(Env(variables), service))


def files(folder: Path) -> dict[str, int]:
    """How many lines each has."""
    return {file.name: len(file.read_text().splitlines()) for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("web", {"django.log": 2, "errors.log": 1}),
        ("worker", {"django.log": 2, "errors.log": 1, "celery.log": 2}),
    ],
)
def test_each_line_is_in_the_files_that_it_belongs_in(restored, tmp_path, service, expected):
    configured(service, LOG_DIR=str(tmp_path))
    logging.getLogger("django.request").error("one")
    logging.getLogger("promotions").info("two")
    logging.getLogger("promotions").debug("three")
    assert files(tmp_path) == expected


def test_what_telemetry_says_is_in_a_file_of_its_own_as_well(restored, tmp_path, capsys):
    configured("worker", LOG_DIR=str(tmp_path))
    logging.getLogger("telemetry.clients.panaccess").info("one")
    logging.getLogger("promotions").info("two")
    assert files(tmp_path) == {
        "django.log": 2,
        "celery.log": 2,
        "panaccess.log": 1,
    }
    assert "[CELERY] one" in (tmp_path / "panaccess.log").read_text()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_without_a_folder_there_is_the_console_alone(restored, tmp_path, capsys):
    configured("web", LOG_FORMAT="json", LOG_LEVEL="warning")
    logging.getLogger("a").info("one")
    logging.getLogger("a").warning("two")
    assert json.loads(capsys.readouterr().err)["message"] == "two"


def test_celery_s_options_have_the_last_word(restored, tmp_path, capsys):
    configured("worker")
    logs.follow(logging.ERROR, str(tmp_path / "celery.log"))
    logging.getLogger("a").warning("one")
    logging.getLogger("a").error("two")
    assert files(tmp_path) == {"celery.log": 1}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "variables",
    [{"LOG_FORMAT": "xml"}, {"LOG_LEVEL": "LOUD"}, {"LOG_DIR": "/nonexistent"}],
)
def test_a_wrong_variable_is_named(variables):
    with pytest.raises(ImproperlyConfigured, match=next(iter(variables))):
        logs.configuration(Env(variables), "web")
