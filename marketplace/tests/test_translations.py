"""Spanish is complete, and what is compiled is what is written."""

import ast
import gettext
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation

from promotions.exceptions import PromotionsError
from task_manager.exceptions import TaskManagerError
from telemetry.exceptions import TelemetryError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "locale" / "es" / "LC_MESSAGES"
MARKS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy"}


def compiled() -> gettext.GNUTranslations:
    with (FOLDER / "django.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def marked(path: Path) -> Iterator[str]:
    """Each literal of the file that is marked for translation."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in MARKS and node.args:
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def written() -> dict[str, list[str]]:
    """Each message of the .po file with its translations."""
    messages: dict[str, list[str]] = {}
    parts: dict[str, str] = {}
    for line in [*(FOLDER / "django.po").read_text().splitlines(), ""]:
        if line.startswith("msg"):
            keyword, _, line = line.partition(" ")
            parts[keyword] = ""
        if line.startswith('"'):
            parts[keyword] += ast.literal_eval(line)
        elif not line and parts:
            messages[parts.pop("msgid")] = [v for k, v in parts.items() if k.startswith("msgstr")]
            parts = {}
    return messages


def sources() -> list[Path]:
    found = [
        path
        for package in ROOT.glob("*/__init__.py")
        for path in package.parent.rglob("*.py")
        if "tests" not in path.parts
    ]
    assert ROOT / "promotions" / "models.py" in found
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_marked_text_is_in_spanish(path: Path):
    known = written()
    missing = [text for text in marked(path) if not all(known.get(text, [""]))]
    assert not missing


@pytest.mark.parametrize(
    "error",
    [
        *PromotionsError.__subclasses__(),
        *TaskManagerError.__subclasses__(),
        *TelemetryError.__subclasses__(),
    ],
)
def test_every_refusal_is_in_spanish(error):
    with translation.override("es"):
        assert str(error()) not in ("", error.__doc__)


def test_the_compiled_catalogue_is_the_written_one():
    catalogue = compiled()
    for message, texts in written().items():
        if message and len(texts) == 1:
            assert catalogue.gettext(message) == texts[0], "run manage.py compilemessages"
