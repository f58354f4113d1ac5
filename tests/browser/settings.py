"""The tests' settings, and the addresses of the browser tests' pages."""

from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.browser.urls"
