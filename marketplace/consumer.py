"""A worker's consumer, which lets no message in that is no task as this project publishes them.

Anybody who may write to Redis can put anything there. Celery takes a message's word for what it
is: a header of another type than it expects ends the worker, and the next one that has the
message. Here what is wrong is found first. Such a message is put aside and counted, not run.
"""

import logging
from collections.abc import Callable
from datetime import MAXYEAR, UTC
from typing import Any

from celery.utils.time import maybe_iso8601
from celery.worker import consumer
from kombu.utils.json import dumps

from marketplace import context, liveness

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/json"
#: Characters of an id or a name, as PostgreSQL keeps them.
MAX_NAME = 255


class Refused(Exception):
    """What is wrong with a message; `reason` is what it counts as."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Consumer(consumer.Consumer):
    connection_errors: Any

    def ensure_connected(self, conn: Any) -> Any:
        """While it waits for its broker, now or later, a worker has no heartbeat, and lives."""
        establish = conn._establish_connection

        def establish_and_show() -> Any:
            with liveness.shown():
                return establish()

        conn._establish_connection = establish_and_show
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def checked(message: Any) -> None:
            try:
                check(message)
            except Refused as flaw:
                self.refuse(message, flaw)
            else:
                with context.belonging_to(**context.of_message(message.headers)):
                    handle(message)

        return checked

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.refuse(message, Refused("content", f"its body cannot be unpacked: {exc}"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self.refuse(message, Refused("invalid", str(exc)))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.refuse(message, Refused("invalid", "it names no task"))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        super().on_unknown_task("not shown", message, exc)  # what it logs

    def refuse(self, message: Any, flaw: Refused) -> None:
        queue = str((message.delivery_info or {}).get("routing_key", ""))[:MAX_NAME]
        logger.error("Refused a message of the queue %r: %s", queue, str(flaw)[:500])
        # A connection lost right now is met by the acknowledgement below, as for any message.
        try:
            message.channel.put_aside(dumps(message._raw).encode(), reason=flaw.reason)
        except self.connection_errors as error:
            logger.warning("A refused message was not put aside: %s", error)
        message.ack_log_error(logger, self.connection_errors)


def check(message: Any) -> None:
    """Raise Refused unless Celery can run this message, or say that it knows no such task."""
    if message.content_type != CONTENT_TYPE:
        raise Refused(
            "content", f"it is {str(message.content_type)[:100]!r}, and only JSON is taken"
        )
    try:
        payload = message.payload
    except Exception as error:  # whatever a stranger's bytes make of the parser
        raise Refused("content", f"its body is no JSON: {type(error).__name__}") from None
    for name, (is_right, expected) in HEADERS.items():
        if not is_right(message.headers.get(name)):
            raise Refused("invalid", f"its header {name!r} is not {expected}")
    for name in ("correlation_id", "reply_to"):
        if not _is_text_or_none(message.properties.get(name)):
            raise Refused("invalid", f"its property {name!r} is not a text")
    if not (isinstance(payload, list) and len(payload) == 3):
        raise Refused("invalid", "its body is not [args, kwargs, embed]")
    args, kwargs, embed = payload
    if not isinstance(args, list):
        raise Refused("invalid", "its arguments are no list")
    if not isinstance(kwargs, dict):
        raise Refused("invalid", "its named arguments are no object")
    if not (isinstance(embed, dict) and all(map(_is_signatures, embed.values()))):
        raise Refused("invalid", "what should follow the task are no tasks")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and "\0" not in value


def _is_request_id_or_none(value: Any) -> bool:
    return value is None or context.is_request_id(value)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_name_or_none(value: Any) -> bool:
    return value is None or _is_name(value)


def _is_count_or_none(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**31)


def _is_flag_or_none(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_time_or_none(value: Any) -> bool:
    if value is None:
        return True
    try:
        moment = maybe_iso8601(value) if isinstance(value, str) else None
        # Celery brings it to its own zone, which the first and the last year have no room for.
        return moment is not None and 1 < moment.astimezone(UTC).year < MAXYEAR
    except Exception:  # whatever its parser thinks of it
        return False


def _is_limits_or_none(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_seconds_or_none(seconds) for seconds in value)
    )


def _is_seconds_or_none(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value < 2**53)


def _is_names_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_name, value)))


def _is_object_or_none(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_signatures(value: Any) -> bool:
    """None, a task to come, or a list of such."""
    return _is_object_or_none(value) or (
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
    )


#: What each header that Celery or this project reads must be, and how to say so.
HEADERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_name, "a text of 1 to 255 characters"),
    "task": (_is_name, "a text of 1 to 255 characters"),
    "shadow": (_is_name_or_none, "a text of 1 to 255 characters"),
    "root_id": (_is_name_or_none, "a text of 1 to 255 characters"),
    "parent_id": (_is_name_or_none, "a text of 1 to 255 characters"),
    "group": (_is_name_or_none, "a text of 1 to 255 characters"),
    "group_index": (_is_count_or_none, "a whole number"),
    "retries": (_is_count_or_none, "a whole number"),
    "replaced_task_nesting": (_is_count_or_none, "a whole number"),
    "failed_deliveries": (_is_count_or_none, "a whole number"),
    "eta": (_is_time_or_none, "a time as ISO 8601 has it"),
    "expires": (_is_time_or_none, "a time as ISO 8601 has it"),
    "timelimit": (_is_limits_or_none, "two numbers of seconds"),
    "ignore_result": (_is_flag_or_none, "true or false"),
    "argsrepr": (_is_text_or_none, "a text"),
    "kwargsrepr": (_is_text_or_none, "a text"),
    "origin": (_is_text_or_none, "a text"),
    "lang": (_is_text_or_none, "a text"),
    "stamped_headers": (_is_names_or_none, "a list of names"),
    "stamps": (_is_object_or_none, "an object"),
    "published_at": (_is_seconds_or_none, "a time in seconds"),
    "unknown_since": (_is_seconds_or_none, "a time in seconds"),
    "request_id": (_is_request_id_or_none, "an id of a request"),
    "periodic": (_is_name_or_none, "a text of 1 to 255 characters"),
}
