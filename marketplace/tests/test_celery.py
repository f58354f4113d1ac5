"""The application's schedule, routes and formats, as the reference documents name them."""

import pytest

from marketplace.celery import app

SCHEDULE = {
    "check-flash-promos-every-minute": ("promotions.tasks.check_active_promos", 60.0),
    "cleanup-expired-promos-every-hour": ("promotions.tasks.cleanup_expired_promos", 3600.0),
    "process-notification-queue-every-30s": ("promotions.tasks.process_notification_queue", 30.0),
    "release-expired-reservations-every-minute": (
        "promotions.tasks.release_expired_reservations",
        60.0,
    ),
    "reconcile-executions-every-minute": ("task_manager.tasks.reconcile_executions", 60.0),
    "check-queues-every-minute": ("task_manager.tasks.check_queues", 60.0),
    "cleanup-executions-every-hour": ("task_manager.tasks.cleanup_executions", 3600.0),
    "sync-and-merge-telemetry": ("telemetry.tasks.sync_and_merge_telemetry_chain", 120.0),
    "deliver-task-notifications-every-15s": ("task_manager.tasks.deliver_notifications", 15.0),
}


def test_the_schedule_is_the_documents():
    entries = app.conf.beat_schedule.items()
    assert {name: (entry["task"], entry["schedule"]) for name, entry in entries} == SCHEDULE


@pytest.mark.parametrize("task", [task for task, _ in SCHEDULE.values()])
def test_every_scheduled_task_exists_and_has_a_known_queue(task):
    app.loader.import_default_modules()
    assert task in app.tasks
    queue = app.amqp.router.route({}, task)["queue"].name
    assert queue in {"high_priority", "default", "low_priority"}


def test_only_json_is_accepted():
    conf = app.conf
    assert (conf.accept_content, conf.task_serializer, conf.result_serializer) == (
        ["json"],
        "json",
        "json",
    )


def test_every_task_has_time_limits():
    assert 0 < app.conf.task_soft_time_limit < app.conf.task_time_limit


def test_the_log_formats_are_the_documents():
    assert app.conf.worker_log_format == "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    assert app.conf.worker_task_log_format == (
        "[%(asctime)s: %(levelname)s/%(processName)s][%(task_name)s(%(task_id)s)] %(message)s"
    )
