"""deploy/monitoring: the alerts fire as they should, and all they ask for is measured."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families as parse

from marketplace.tests.test_metrics import TOKEN, bearer
from task_manager.models import TaskStatistic
from telemetry.models import SyncState

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/flash-promos.json").read_text())
NAME = re.compile(r"\bflash_promos_[a-z_]+")


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        assert os.environ.get("CI") != "true", "promtool is missing: install Debian's prometheus"
        pytest.skip("MISSING: promtool (Debian's prometheus); the alerts were not tried")
    return found


@pytest.mark.parametrize(
    "arguments", [("check", "rules", "rules.yml"), ("test", "rules", "rules.test.yml")]
)
def test_the_alerts_fire_on_what_they_are_for(promtool: str, arguments: tuple[str, ...]) -> None:
    done = subprocess.run([promtool, *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tried_both_ways() -> None:
    tests = yaml.safe_load((MONITORING / "rules.test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [case for test in tests for case in test["alert_rule_test"]]
    names = {alert["alert"] for alert in ALERTS}
    assert {case["alertname"] for case in tried if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in tried if not case.get("exp_alerts")} == names


def test_each_alert_says_what_it_is_and_where_help_stands() -> None:
    for alert in ALERTS:
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"


@pytest.mark.django_db
def test_all_that_is_asked_for_is_measured(client, settings, broker) -> None:
    settings.METRICS_TOKEN = TOKEN
    TaskStatistic.objects.create(
        task_name="t", task_module="m", status="SUCCESS", bucket=0, count=1, seconds=1
    )
    settings.PANACCESS_URL = "http://127.0.0.1:9/"
    SyncState.objects.create(complete_at=timezone.now())
    broker.zadd("redbeat::schedule", {"redbeat:entry": 0})
    text = client.get("/metrics", headers=bearer(TOKEN)).text
    measured = {sample.name for family in parse(text) for sample in family.samples}
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in NAME.findall(query)}
    asked |= {name for alert in ALERTS for name in NAME.findall(alert["expr"])}
    assert asked - measured == set()
