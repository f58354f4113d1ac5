"""What the stream carries: one transition of one task, as JSON, whole in itself.

Each entry holds all that its writer knows of the task, so that the history is right even when
an earlier entry was lost. The name in one that is `own`, the task's own word, wins.

Fields: `id`, `status`, `position`, `at` (epoch seconds, as all times), and whatever applies of
`name`, `celery_name`, `module`, `description`, `user_id`, `parameters`, `queue`, `worker`,
`retries`, `created_at`, `started_at`, `finished_at`, `duration` (seconds), `progress`, `message`,
`result`, `error`, `traceback`, `own`, and `letter`, the whole arguments of a dead letter.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from math import isfinite
from typing import Any

import orjson
from celery import current_app
from celery.utils.saferepr import saferepr
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder

from marketplace.masking import MASK as MASK
from marketplace.masking import is_secret, masked
from task_manager.models import TaskStatus

# --- Order ---------------------------------------------------------------------------------------
_ATTEMPT = {TaskStatus.PENDING: 0, TaskStatus.STARTED: 1, TaskStatus.RETRY: 2}
_END = 2**40
_FINAL = {TaskStatus.FAILURE: _END + 2, TaskStatus.REVOKED: _END + 2, TaskStatus.SUCCESS: _END + 3}


def position(status: str, retries: int = 0, *, presumed: bool = False) -> int:
    """How far a task has come; a row takes an entry of a higher position only.

    An end outweighs every attempt, and a success every other end, as in Celery's own result
    backends. What was presumed (a lost task, an end given by hand) gives way to what a worker
    says.
    """
    if status in _ATTEMPT:
        return 3 * retries + _ATTEMPT[TaskStatus(status)]
    return _END + 1 if presumed else _FINAL[TaskStatus(status)]


# --- Values --------------------------------------------------------------------------------------
#: Values of one task's parameters or result that are kept, and characters of each text.
MAX_VALUES = 500
MAX_TEXT = 2000
MAX_TRACEBACK = 20_000
MAX_DEPTH = 8
#: Characters of arguments that Celery itself puts into a message's headers.
MAX_REPR = 1024


@cache
def _unfit() -> "re.Pattern[bytes]":
    """What JSON must not have in it to be kept as it is.

    That is what PostgreSQL does not take, what kombu alone understands, names of secrets, and
    escapes, which may hide one.
    """
    names = (name.encode() for name in settings.TASK_SECRET_NAMES)
    return re.compile(
        b"|".join([rb"NaN|Infinity|\\u|__type__", *map(re.escape, names)]), re.IGNORECASE
    )


class _Bounded:
    """Copies a value, masked by key names, until `MAX_VALUES` values are spent."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def copy(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        match value:
            case float() if not isfinite(value):  # which JSON does not know
                return str(value)
            case None | bool() | int() | float():
                return value
            case str():
                return shortened(value, MAX_TEXT)
            case dict() | list() | tuple() if depth >= MAX_DEPTH:
                return "…"
            case dict():
                return self._dict(value, depth + 1)
            case list() | tuple() | set() | frozenset():
                return self._list(value, depth + 1)
        return _plain(value)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, item in value.items():
            if self.left <= 0:
                copied["…"] = f"{len(value) - len(copied)} more"
                break
            name = shortened(str(key), 200)
            copied[name] = MASK if is_secret(name) else self.copy(item, depth)
        return copied

    def _list(self, value: Any, depth: int) -> list[Any]:
        copied: list[Any] = []
        for item in value:
            if self.left <= 0:
                copied.append(f"… {len(value) - len(copied)} more")
                break
            copied.append(self.copy(item, depth))
        return copied


def bounded(value: Any) -> Any:
    """A copy fit for the history: as JSON, no longer than it may be, secrets masked."""
    return _Bounded().copy(value)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


_encoder = DjangoJSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Dates, decimals and their like as text, anything else as its representation."""
    try:
        return shortened(str(_encoder.default(value)), MAX_TEXT)
    except Exception:  # of somebody's own type
        return shortened(_representation(value), MAX_TEXT)


def _representation(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


# --- Tasks ---------------------------------------------------------------------------------------
#: Set on a task's function by `track_task`: (name, module, description).
TRACKED = "__task_manager__"


@dataclass(frozen=True)
class Description:
    """What a task's entries say of the task itself."""

    name: str
    celery_name: str
    module: str
    description: str
    parameters: tuple[str, ...]
    #: Whether this process knows the task, or its name alone.
    is_known: bool

    @cached_property
    def secret_positions(self) -> frozenset[int]:
        """Which of the parameters are secret by their names."""
        return frozenset(n for n, name in enumerate(self.parameters) if is_secret(name))

    @cached_property
    def json(self) -> bytes:
        """The description as members of a JSON object that has others before them."""
        fields = {"name": self.name, "module": self.module, "description": self.description}
        return b"," + encode(fields)[1:-1]

    def bind(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """The parameters by name; what the function does not name stands under `args`.

        Where the names are not known any of them may be a secret's.
        """
        if not args:
            return dict(kwargs or {})
        if not self.is_known:
            return {"args": [MASK] * len(args), **(kwargs or {})}
        names = self.parameters
        bound = dict(zip(names, args, strict=False))
        if len(args) > len(names):
            bound["args"] = list(args[len(names) :])
        return {**bound, **(kwargs or {})}


_descriptions: dict[str, Description] = {}


def describe(celery_name: str) -> Description:
    """By the task's registration in this process, or its name alone when it has none."""
    known = _descriptions.get(celery_name)
    if known:
        return known
    task: Any = current_app.tasks.get(celery_name)
    function = getattr(task, "run", None)
    name, module, description = (
        getattr(task, TRACKED, None)
        or getattr(function, TRACKED, None)
        or (celery_name, celery_name.partition(".")[0], _summary(function))
    )
    described = Description(
        name, celery_name, module, description, _positional(function), is_known=task is not None
    )
    if task is not None:
        _descriptions[celery_name] = described
    return described


def _summary(function: Callable[..., Any] | None) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0] if function else ""


def _positional(function: Callable[..., Any] | None) -> tuple[str, ...]:
    if function is None:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind in kinds
    )


# --- Arguments, as others show them --------------------------------------------------------------
def without_secrets(celery_name: str, args: Any, kwargs: Any) -> tuple[list[Any], Any] | None:
    """A copy of a task's arguments to be shown; None when there is nothing to hide."""
    args, kwargs = args or (), kwargs or {}
    task = describe(celery_name)
    secret = task.secret_positions if task.is_known else frozenset(range(len(args)))
    if not any(position < len(args) for position in secret):
        try:
            text = orjson.dumps((args, kwargs), default=_representation)
        except TypeError:
            pass  # not a plain case, so it is copied
        else:
            if not _unfit().search(text):
                return None
    shown = [MASK if n in secret else bounded(value) for n, value in enumerate(args)]
    return shown, bounded(kwargs)


def representations(celery_name: str, args: Any, kwargs: Any) -> tuple[str, str] | None:
    """The same as texts for a message's headers."""
    shown = without_secrets(celery_name, args, kwargs)
    return (saferepr(shown[0], MAX_REPR), saferepr(shown[1], MAX_REPR)) if shown else None


# --- Entries -------------------------------------------------------------------------------------
#: Message headers of ours: when the task was published, and for whom.
PUBLISHED_AT = "published_at"
USER_ID = "tracked_user_id"


def of_message(message: dict[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """What a message says of its task; `message` holds its headers."""
    parameters = describe(message["task"]).bind(args, kwargs) if args or kwargs else {}
    delivery = message.get("delivery_info") or {}
    entry = {
        "id": message["id"],
        "celery_name": message["task"],
        "retries": message.get("retries") or 0,
        "created_at": message.get(PUBLISHED_AT),
    }
    if parameters:
        entry["parameters"] = bounded(parameters)
    if user_id := _user_id(parameters, message):
        entry["user_id"] = user_id
    if queue := delivery.get("routing_key"):
        entry["queue"] = queue
    if worker := message.get("hostname"):
        entry["worker"] = worker
    return entry


def _user_id(parameters: dict[str, Any], message: dict[str, Any]) -> int | None:
    user_id = parameters.get("user_id", message.get(USER_ID))
    if isinstance(user_id, str) and user_id.isascii() and user_id.isdigit():
        user_id = int(user_id[:18])
    return user_id if type(user_id) is int and 0 < user_id < 2**31 else None


def transition(
    entry: dict[str, Any], status: str, at: float, *, presumed: bool = False, result: bytes = b""
) -> bytes:
    """The entry as JSON, with what orders it; `result` is JSON already."""
    entry["status"] = status
    entry["position"] = position(status, entry.get("retries") or 0, presumed=presumed)
    entry["at"] = at
    more = b""
    if "celery_name" in entry and "name" not in entry:
        more = describe(entry["celery_name"]).json
    return encode(entry, more, result)


#: An escaped NUL that is not itself the end of an escaped backslash.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_REPLACED = "\\1\ufffd".encode()


def encode(entry: dict[str, Any], more: bytes = b"", result: bytes = b"") -> bytes:
    """One JSON object of the entry and of what is JSON already, as PostgreSQL takes it."""
    try:
        data = orjson.dumps(entry, default=_encoder.default)
    except TypeError:  # lone surrogates, numbers of more than 64 bits, keys that are no text
        data = _encoder.encode(_without_nan(entry)).encode("utf-8", "replace")
    if result:
        more += b',"result":' + result
    if more:
        data = data[:-1] + more + b"}"
    if b"\\u0000" in data:  # which PostgreSQL does not take
        data = _NUL.sub(_REPLACED, data)
    return data


def _without_nan(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list():
            return [_without_nan(item) for item in value]
    return value


def error(exception: BaseException | None, traceback: str | None = "") -> dict[str, str]:
    return {
        "error": shortened(masked(_representation(exception)), MAX_TEXT),
        "traceback": masked(traceback or "")[-MAX_TRACEBACK:],
    }


def result_json(backend: Any, value: bytes) -> bytes:
    """The result in what a result backend stores of a task, as JSON fit for the history."""
    end = value.find(_AFTER_RESULT)
    if (
        len(value) < MAX_TEXT
        and value.startswith(_RESULT)
        and end > 0
        and not _unfit().search(value)
    ):
        return value[len(_RESULT) : end]
    return encode({"result": bounded(backend.decode(value)["result"])})[len(b'{"result":') : -1]


_RESULT = b'{"status": "SUCCESS", "result": '
_AFTER_RESULT = b', "traceback": null, "children": '
