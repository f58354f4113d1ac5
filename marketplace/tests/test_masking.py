"""What of a text is a secret."""

import io
import logging
import sys

import pytest
from django.http import HttpRequest
from django.test import RequestFactory
from django.views.debug import ExceptionReporter, get_exception_reporter_filter

from marketplace import masking
from marketplace.masking import MASK, SecretsFilter, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2", f"password={MASK}"),
        ("{'password': 'hunter2', 'user': 'ana'}", f"{{'password': {MASK}, 'user': 'ana'}}"),
        ('{"db_password": "a \\" b", "x": 1}', f'{{"db_password": {MASK}, "x": 1}}'),
        ("api_key: abc, next", f"api_key: {MASK}, next"),
        ("Authorization: Bearer a.b-c_d", f"Authorization: Bearer {MASK}"),
        ("?token=abc&page=2", f"?token={MASK}&page=2"),
        ("PASSWD='a b c'", f"PASSWD={MASK}"),
        ("redis://:hunter2@host:6379/0", f"redis://:{MASK}@host:6379/0"),
        ("postgres://ana:hunter2@host/db", f"postgres://ana:{MASK}@host/db"),
        # Nothing secret.
        ("the password is wrong", "the password is wrong"),
        ("http://host:8000/a@b", "http://host:8000/a@b"),
        ("user=ana", "user=ana"),
        ("", ""),
    ],
)
def test_a_value_is_masked_by_its_name_or_place(text, shown):
    assert masked(text) == shown


@pytest.fixture
def own(settings):
    settings.SECRET_VALUES = {"own-secret", "own-secret-longer", "short"}
    masking._own.cache_clear()
    yield
    masking._own.cache_clear()


def test_the_installation_s_own_secrets_are_masked_anywhere(own):
    assert masked("xown-secret-longery own-secret short") == f"x{MASK}y {MASK} short"


def logged(message: str, *args: object, **options: object) -> str:
    """As a handler writes it."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.addFilter(SecretsFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.error(message, *args, **options)  # type: ignore[arg-type]
    return output.getvalue()


def test_a_log_line_is_masked_with_its_arguments():
    assert logged("login with %s for %d", {"password": "hunter2"}, 7) == (
        f"login with {{'password': {MASK}}} for 7\n"
    )


def test_a_traceback_in_the_log_is_masked(own):
    try:
        raise ValueError("password=hunter2 own-secret")
    except ValueError:
        text = logged("failed", exc_info=True)
    assert "Traceback" in text
    assert f"ValueError: password={MASK} {MASK}" in text
    assert "hunter2" not in text


def test_a_line_that_does_not_fit_its_arguments_is_not_lost(capsys):
    """logging itself says so, and the program goes on."""
    logged("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_without_names_nothing_is_secret_by_its_name(settings):
    settings.TASK_SECRET_NAMES = []
    masking._names.cache_clear()
    try:
        assert masked("password=hunter2") == "password=hunter2"
        assert not masking.is_secret("password")
    finally:
        masking._names.cache_clear()


def page_of_an_error(request: HttpRequest) -> str:
    try:
        raise RuntimeError("something")
    except RuntimeError:
        page: str = ExceptionReporter(request, *sys.exc_info()).get_traceback_html()
        return page


@pytest.mark.parametrize("debug", [False, True])
def test_the_page_of_an_error_shows_no_secret_of_the_settings(settings, debug):
    settings.DEBUG = debug
    settings.SECRET_KEY = "own-django"
    settings.FLOWER_LOGINS = ["admin:own-flower"]
    settings.FLOWER_LOGIN = "admin:own-flower"
    settings.SECRET_VALUES = {"own-flower"}
    settings.REDIS_URL = settings.CELERY_BROKER_URL = "redis://:own-redis@host:6379/0"
    database = settings.DATABASES["default"]["PASSWORD"]
    masking._own.cache_clear()
    request = RequestFactory().get("/?a=1", headers={"authorization": "Bearer own-token"})
    page = page_of_an_error(request)
    masking._own.cache_clear()
    assert isinstance(get_exception_reporter_filter(request), masking.ReporterFilter)
    assert "REDIS_URL" in page
    own = [f"own-{word}" for word in ("django", "flower", "redis", "token")]
    assert [secret for secret in (*own, database) if secret in page] == []
