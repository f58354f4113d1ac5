"""How a line of the log looks and where it goes, the same for every process.

Nothing of ours is imported here: gunicorn's main process, which keeps what it has imported over
each HUP, takes this file by its path. What a line belongs to, `marketplace.context` knows.
"""

import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from logging.config import dictConfig
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

#: As document 003 has them; Celery's settings of the same names may give others.
LINE = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_LINE = "[%(asctime)s: %(levelname)s/%(processName)s][%(task_name)s(%(task_id)s)] %(message)s"
#: What Celery's own command runs; their lines go to celery.log, too.
CELERY = ("worker", "beat", "flower")
#: Bytes at which a file is put away, and how many of those are kept.
MAX_BYTES, BACKUPS = 10_000_000, 5


def service_of(argv: Sequence[str]) -> str:
    """web, worker, beat, flower, or the command of manage.py."""
    path = Path(argv[0] if argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.name
    if name == "gunicorn":
        return "web"
    if name == "celery":
        return next((word for word in argv[1:] if word in CELERY), name)
    return argv[1] if name == "manage.py" and len(argv) > 1 else name


# --- Lines ---------------------------------------------------------------------------------------
class TextFormatter(logging.Formatter):
    """A line of text; a task's names the task, once, and a request's the request.

    Before the messages of tasks, or of all, stands the prefix.
    """

    def __init__(
        self,
        line: str = LINE,
        task_line: str = TASK_LINE,
        prefix: str = "",
        prefix_all: bool = False,
    ) -> None:
        super().__init__(line)
        self.task_line = logging.PercentStyle(task_line)
        self.prefix, self.prefix_all = prefix, prefix_all

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        task_id = getattr(record, "task_id", "")
        style = self._style
        if task_id and task_id not in record.message:
            style = self.task_line
        if request_id := getattr(record, "request_id", ""):
            record.message = f"[request {request_id}] {record.message}"
        if self.prefix and (task_id or self.prefix_all):
            record.message = f"{self.prefix} {record.message}"
        return style.format(record)


class JSONFormatter(logging.Formatter):
    """One object a line, of ASCII alone; what there is not is left out."""

    def __init__(self, service: str = "") -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service": self.service,
            "process": record.processName,
            "pid": record.process,
            "task_id": getattr(record, "task_id", ""),
            "task_name": getattr(record, "task_name", ""),
            "request_id": getattr(record, "request_id", ""),
            "trace_id": getattr(record, "trace_id", ""),
            "exception": self._exception(record),
        }
        return json.dumps({name: value for name, value in fields.items() if value}, default=str)

    def _exception(self, record: logging.LogRecord) -> str:
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return record.exc_text or ""


# --- Files ---------------------------------------------------------------------------------------
class SharedFileHandler(WatchedFileHandler):
    """A file to which several processes write, and which one of them puts away when it is full.

    The others notice that it is another file now. Each line is one write to the file's end, so
    that none is torn or lost. A file that cannot be written to is no reason to stop.
    """

    def __init__(self, path: str, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.max_bytes, self.backups = max_bytes, backups
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._size() >= self.max_bytes:
                self._put_away()
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """A line a minute, past the log: a traceback for each record would be most of what is
        left to read, and in a worker whose prints are logged, cause the next."""
        now, error = time.monotonic(), sys.exc_info()[1]
        if now >= self._silent_until and sys.__stderr__:
            self._silent_until = now + 60
            print(f"{self.baseFilename} cannot be written: {error}", file=sys.__stderr__)

    def _size(self) -> int:
        try:
            return os.stat(self.baseFilename).st_size
        except FileNotFoundError:
            return 0

    def _put_away(self) -> None:
        """One process does, while the folder is locked."""
        folder = os.open(os.path.dirname(self.baseFilename), os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if self._size() < self.max_bytes:
                return
            names = [
                self.baseFilename,
                *(f"{self.baseFilename}.{n + 1}" for n in range(self.backups)),
            ]
            for number in range(self.backups, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(names[number - 1], names[number])
        finally:
            os.close(folder)


# --- All of it -----------------------------------------------------------------------------------
def configuration(
    env: Any, service: str, filters: dict[str, Any] | None = None, **lines: str
) -> dict[str, Any]:
    """For `logging.config.dictConfig`, from LOG_LEVEL, LOG_FORMAT and LOG_DIR.

    The filters go to each handler, in their order; `lines` are TextFormatter's. Raises
    ImproperlyConfigured.
    """
    filters = filters or {}
    folder = env.read("LOG_DIR", "", _folder)
    handlers: dict[str, dict[str, Any]] = {
        "console": {"class": "logging.StreamHandler", "formatter": "console"}
    }
    panaccess: dict[str, Any] = {}
    if folder:
        handlers |= _files(Path(folder), service)
        panaccess = {"panaccess": _file(Path(folder), "panaccess")}
    for handler in (*handlers.values(), *panaccess.values()):
        handler |= {"filters": list(filters)}
    formatters = _formatters(env.read("LOG_FORMAT", "text", _format), service, lines)
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": formatters,
        "filters": filters,
        "handlers": handlers | panaccess,
        "root": {"handlers": list(handlers), "level": env.read("LOG_LEVEL", "INFO", _level)},
        "loggers": {
            # Without handlers of their own: Django's would mail each failed request to ADMINS.
            **{
                name: {"handlers": [], "propagate": True}
                for name in ("django", "django.server", "gunicorn.error")
            },
            "telemetry": {"handlers": list(panaccess)},
            # Of the pool's processes; it passes nothing on by itself.
            "multiprocessing": {"handlers": list(handlers), "level": "ERROR"},
            # At DEBUG the pool shows whole messages.
            "celery.pool": {"level": "INFO"},
        },
    }


_is_configured = False


def configure(configuration: dict[str, Any]) -> None:
    """Once. Django asks whenever it is set up anew, and would undo what `follow` did."""
    global _is_configured
    if not _is_configured:
        dictConfig(configuration)
        _is_configured = True


def follow(level: int, file: str | None) -> None:
    """From now on this is the least level, and the file takes the console's place."""
    root = logging.getLogger()
    root.setLevel(level)
    console = next((handler for handler in root.handlers if handler.name == "console"), None)
    if not (file and console):
        return
    handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.name, handler.formatter, handler.filters = "console", console.formatter, console.filters
    for logger in (root, logging.getLogger("multiprocessing")):
        logger.removeHandler(console)
        logger.addHandler(handler)


def _formatters(form: str, service: str, lines: dict[str, str]) -> dict[str, Any]:
    if form == "json":
        return {name: {"()": JSONFormatter, "service": service} for name in ("console", "file")}
    prefix = {"prefix": "[CELERY]", "prefix_all": service in CELERY}
    return {
        "console": {"()": TextFormatter, **lines},
        "file": {"()": TextFormatter, **lines, **prefix},
    }


def _files(folder: Path, service: str) -> dict[str, Any]:
    """django.log has every line, errors.log the errors, celery.log those of Celery's programs."""
    names = ["django", "errors", *(["celery"] if service in CELERY else [])]
    files = {name: _file(folder, name) for name in names}
    files["errors"]["level"] = "ERROR"
    return files


def _file(folder: Path, name: str) -> dict[str, Any]:
    path = str(folder / f"{name}.log")
    return {"()": SharedFileHandler, "path": path, "formatter": "file"}


def _format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("expected text or json")
    return text


def _folder(text: str) -> str:
    if not (os.path.isdir(text) and os.access(text, os.W_OK | os.X_OK)):
        raise ValueError(f"expected a folder that user {os.geteuid()} may write to")
    return text


def _level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError("expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return text.upper()
