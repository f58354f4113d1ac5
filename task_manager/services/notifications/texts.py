"""What notifications say, in the language of the installation."""

from functools import lru_cache

from django.utils import translation
from django.utils.translation import gettext

from task_manager.models import NotificationEvent


def title(event: str) -> str:
    return {
        NotificationEvent.START: gettext("%(task)s has started"),
        NotificationEvent.PROGRESS: gettext("%(task)s is at %(progress)s %%"),
        NotificationEvent.COMPLETE: gettext("%(task)s has finished"),
        NotificationEvent.ERROR: gettext("%(task)s has failed"),
        NotificationEvent.ALERT: gettext("%(task)s has failed critically"),
    }[NotificationEvent(event)]


@lru_cache(maxsize=4)
def titles(language: str) -> dict[str, str]:
    """By event, with the places of a task's name and progress left open."""
    with translation.override(language):
        return {event: title(event).replace("%%", "%") for event in NotificationEvent}
