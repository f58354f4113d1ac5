"""CELERY_* variables override Celery's settings, typed by Celery's own table."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from marketplace import celery_options


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CELERY_BROKER_URL", "redis://elsewhere:6379/0", "redis://elsewhere:6379/0"),
        ("CELERY_TASK_ACKS_LATE", "true", True),
        ("CELERY_WORKER_PREFETCH_MULTIPLIER", "1", 1),
        ("CELERY_WORKER_CONCURRENCY", "4", 4),
        ("CELERY_BROKER_CONNECTION_TIMEOUT", "2.5", 2.5),
        (
            "CELERY_BROKER_TRANSPORT_OPTIONS",
            '{"visibility_timeout": 30}',
            {"visibility_timeout": 30},
        ),
        ("CELERY_ACCEPT_CONTENT", "json, application/json", ["json", "application/json"]),
        ("CELERY_IMPORTS", '["a.tasks"]', ("a.tasks",)),
        ("CELERY_TASK_ROUTES", '{"a.*": {"queue": "x"}}', {"a.*": {"queue": "x"}}),
        ("CELERY_REDBEAT_LOCK_TIMEOUT", "20", 20),
        ("CELERY_DB_REUSE_MAX", "5", 5),
    ],
)
def test_a_variable_is_typed(name, text, value):
    assert dict(celery_options.read({name: text})) == {name: value}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("CELERY_TASK_ACK_LATE", "1", "no setting 'task_ack_late'"),
        ("CELERY_WORKER_PREFETCH_MULTIPLIER", "one", "invalid literal"),
        ("CELERY_TASK_ACKS_LATE", "perhaps", "expected one of"),
        ("CELERY_BROKER_TRANSPORT_OPTIONS", "30", "expected a JSON object"),
        ("CELERY_BROKER_TRANSPORT_OPTIONS", "{", "expected JSON"),
        ("CELERY_WORKER_CONCURRENCY", "many", "invalid literal"),
    ],
)
def test_a_wrong_variable_is_named(name, text, reason):
    with pytest.raises(ImproperlyConfigured, match=f"{name}.*{reason}"):
        dict(celery_options.read({name: text}))


def test_variables_of_celery_itself_are_no_settings():
    source = {"CELERY_LOG_LEVEL": "20", "CELERY_WORKER_LOGLEVEL": "debug", "OTHER": "1"}
    assert dict(celery_options.read(source)) == {}


def test_an_empty_variable_is_unset():
    assert dict(celery_options.read({"CELERY_TASK_ACKS_LATE": ""})) == {}


def test_a_secret_may_come_from_a_file(tmp_path):
    path = tmp_path / "url"
    path.write_text("redis://:secret@host:6379/0\n")
    source = {"CELERY_BROKER_URL_FILE": str(path)}
    assert dict(celery_options.read(source)) == {"CELERY_BROKER_URL": "redis://:secret@host:6379/0"}


def test_every_type_of_celerys_table_can_be_parsed():
    assert set(celery_options.option_types().values()) <= set(celery_options.PARSERS)
