"""The notification settings of a template: what they may say, and what follows from them."""

import json
import logging
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.translation import gettext

from task_manager.clients import webhooks
from task_manager.models import NotificationChannel, NotificationEvent

logger = logging.getLogger(__name__)

_SWITCHES = {
    "notify_on_start": NotificationEvent.START,
    "notify_on_complete": NotificationEvent.COMPLETE,
    "notify_on_error": NotificationEvent.ERROR,
}
_KEYS = (*_SWITCHES, "notify_on_progress", "channels", "webhook_url", "critical")
_CHANNELS = (NotificationChannel.IN_APP, NotificationChannel.EMAIL, NotificationChannel.WEBHOOK)


def settings_errors(notification_settings: Any) -> list[str]:
    """What is wrong with a template's notification settings, in words for who wrote them."""
    errors = _mistakes(notification_settings)
    if not errors and _has_webhook(notification_settings) and not settings.TASK_WEBHOOK_SECRET:
        errors.append(
            gettext(
                "channels: webhooks are signed with TASK_WEBHOOK_SECRET, which is not set here."
            )
        )
    return errors


def _mistakes(asked: Any) -> list[str]:
    if not isinstance(asked, dict):
        return [gettext("The notification settings must be an object with named values.")]
    errors = [
        gettext("%(key)s: unknown; known are %(known)s.") % {"key": key, "known": ", ".join(_KEYS)}
        for key in asked
        if key not in _KEYS
    ]
    errors += [
        gettext("%(key)s: must be true or false.") % {"key": key}
        for key in (*_SWITCHES, "critical")
        if not isinstance(asked.get(key, False), bool)
    ]
    progress = asked.get("notify_on_progress", 1)
    if type(progress) is not int or not 1 <= progress <= 99:
        errors.append(gettext("notify_on_progress: must be a whole number of percent, 1 to 99."))
    channels = asked.get("channels", ["in_app"])
    if not isinstance(channels, list) or not channels or not all(c in _CHANNELS for c in channels):
        errors.append(
            gettext("channels: must be a list of one or more of %(known)s.")
            % {"known": ", ".join(_CHANNELS)}
        )
    elif _has_webhook(asked) and "webhook_url" not in asked:
        errors.append(gettext("webhook_url: the channel webhook needs it."))
    if "webhook_url" in asked and not _is_url(asked["webhook_url"]):
        errors.append(
            gettext(
                "webhook_url: must be an http or https address of up to 500 characters, without "
                "user and password, such as https://example.com/tasks."
            )
        )
    return errors


def _has_webhook(asked: dict[str, Any]) -> bool:
    return NotificationChannel.WEBHOOK in asked.get("channels", [])


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 500:
        return False
    try:
        webhooks.target(value)
    except webhooks.WebhookRefused:
        return False
    return True


class Wish(NamedTuple):
    """To tell an event of a task, or each step of its progress, over a channel."""

    task_name: str
    event: str
    step: int
    channel: str
    address: str


@lru_cache(maxsize=4)
def wishes_of(templates: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """What these templates ask for, each wish once; a template is a task's name and settings."""
    wishes: dict[Wish, None] = {}
    for task_name, text in templates:
        asked = json.loads(text)
        if mistakes := _mistakes(asked):
            logger.warning("Nobody is notified of %s: %s", task_name, " ".join(mistakes))
            continue
        events = [(event, 0) for key, event in _SWITCHES.items() if asked.get(key)]
        if step := asked.get("notify_on_progress"):
            events.append((NotificationEvent.PROGRESS, step))
        for channel in asked.get("channels", [NotificationChannel.IN_APP]):
            address = asked["webhook_url"] if channel == NotificationChannel.WEBHOOK else ""
            wishes |= {
                Wish(task_name, event, step, channel, address): None for event, step in events
            }
        if asked.get("critical"):
            alert = Wish(task_name, NotificationEvent.ALERT, 0, NotificationChannel.ADMINS, "")
            wishes[alert] = None
    return [wish._asdict() for wish in wishes]
