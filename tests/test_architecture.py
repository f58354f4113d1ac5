"""Inside an app imports point one way, downwards; apps meet through services and selectors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
APPS = ("promotions", "task_manager", "telemetry")

#: What each room may import of its own app.
BELOW_SERVICES = {"models", "exceptions", "entries", "selectors", "clients"}
ALLOWED = {
    "models": set(),
    "exceptions": set(),
    "entries": {"models"},
    "clients": {"entries"},
    "selectors": {"models", "exceptions"},
    "services": BELOW_SERVICES,
    "receivers": {"models", "services", "entries", "clients"},
    "tasks": {"services", "exceptions"},
    "utils": BELOW_SERVICES | {"services"},
    "admin": BELOW_SERVICES | {"services"},
    "api": BELOW_SERVICES | {"services"},
    "management": BELOW_SERVICES | {"services"},
    "metrics": BELOW_SERVICES,
    "state": BELOW_SERVICES | {"services"},
    # The worker's side of the history.
    "observer": {"models", "entries", "clients"},
    "bootsteps": {"observer", "clients", "services"},
    "retrying": {"entries", "clients"},
    "apps": {"receivers", "bootsteps"},
}
#: What one app may import of another.
MEETING_ROOMS = {"services", "selectors", "utils", "retrying"}


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield (*node.module.split("."), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))


def modules() -> list[tuple[str, str, Path]]:
    found = []
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            room = path.relative_to(ROOT / app).parts[0].removesuffix(".py")
            if room not in ("tests", "migrations", "__init__"):
                found.append((app, room, path))
    return found


@pytest.mark.parametrize(
    ("app", "room", "path"), modules(), ids=lambda value: getattr(value, "name", value)
)
def test_imports_point_downwards(app: str, room: str, path: Path):
    for target in imports(path):
        if target[0] == app and len(target) > 1:
            assert target[1] in ALLOWED[room] | {room}, f"{path}: {'.'.join(target)}"
        elif target[0] in APPS and target[0] != app:
            assert target[1] in MEETING_ROOMS, f"{path}: {'.'.join(target)}"


def test_the_rule_would_catch_an_upward_import(tmp_path: Path):
    path = tmp_path / "services.py"
    path.write_text("from promotions.tasks import check_active_promos\nimport promotions.api\n")
    assert [target[1] for target in imports(path)] == ["tasks", "api"]
