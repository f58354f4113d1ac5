"""The project's migrations, and the rules that they keep, on a real PostgreSQL."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings

from deploy import contract
from tests.migration_rules import since, violations
from tests.scratch import Scratch, scratch_database

pytestmark = pytest.mark.django_db(transaction=True)

#: Migrations that break a rule and were found to do no harm, and why.
REVIEWED: dict[str, str] = {}


def test_every_change_of_a_model_has_its_migration():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_the_migrations_since_the_last_release_keep_the_rules():
    """docs/upgrading.md explains them."""
    released = contract.recorded()["migrations"]
    found = violations(since(released))
    assert [text for text in found if text.split(":")[0] not in REVIEWED] == []


def test_the_migrations_of_a_release_are_those_of_the_project_alone():
    found = {migration.app_label for migration in since({})}
    assert found == {"promotions", "task_manager", "telemetry"}
    assert since(contract.current()["migrations"]) == []


# --- There and back ---
@pytest.fixture
def scratch(transactional_db: None) -> Iterator[Scratch]:
    with scratch_database() as database:
        yield database


def test_every_migration_goes_back_to_exactly_what_was_before(scratch):
    """Step by step to nothing, with the demo's rows in the tables, and up again."""
    steps = [(migration.app_label, migration.name) for migration in since({})]
    scratch.manage("migrate", "--verbosity=0")
    scratch.manage("seed_demo")
    down = [scratch.schema()]
    for index in reversed(range(len(steps))):
        app, _ = steps[index]
        before = [name for label, name in steps[:index] if label == app]
        scratch.manage("migrate", "--verbosity=0", app, before[-1] if before else "zero")
        down.append(scratch.schema())
    assert "promotions_" not in down[-1]
    up = [scratch.schema()]
    for app, name in steps:
        scratch.manage("migrate", "--verbosity=0", app, name)
        up.append(scratch.schema())
    assert up == list(reversed(down))
    scratch.manage("migrate", "--check")


# --- The rules, each broken once ---
FIRST = """
    from django.db import migrations, models

    class Migration(migrations.Migration):
        initial = True
        operations = [
            migrations.CreateModel("Item", [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=10)),
                ("size", models.IntegerField(null=True)),
            ]),
            migrations.AddIndex("Item", models.Index(fields=["name"], name="by_name")),
        ]
"""
SECOND = """
    from django.contrib.postgres.operations import (
        AddConstraintNotValid, AddIndexConcurrently, RemoveIndexConcurrently, ValidateConstraint,
    )
    from django.db import migrations, models

    positive = models.CheckConstraint(condition=models.Q(size__gt=0), name="positive")
    by_size = models.Index(fields=["size"], name="by_size")

    def forwards(apps, schema_editor):
        Item = apps.get_model("{label}", "Item")
        Item.objects.update(size=1)

    class Migration(migrations.Migration):
        atomic = {atomic}
        dependencies = [("{label}", "0001_initial")]
        operations = [{operations}]
"""

BAD = {
    "a column that must not be null": (
        'migrations.AddField("Item", "colour", models.CharField(max_length=9, default="red"))',
        "NOT NULL constraint on columns: give it a db_default",
    ),
    "a column that must be null no more": (
        'migrations.AlterField("Item", "size", models.IntegerField())',
        "NOT NULL constraint on columns",
    ),
    "a column that goes": (
        'migrations.RemoveField("Item", "size")',
        "DROPPING columns (migrating_item.size)",
    ),
    "a column with another name": (
        'migrations.RenameField("Item", "size", "width")',
        "RENAMING columns",
    ),
    "a column of another type": (
        'migrations.AlterField("Item", "size", models.BigIntegerField(null=True))',
        "ALTERING columns",
    ),
    "a table that goes": ('migrations.DeleteModel("Item")', "DROPPING table"),
    "a table with another name": ('migrations.RenameModel("Item", "Thing")', "RENAMING tables"),
    "an index that locks the table": (
        'migrations.AddIndex("Item", by_size)',
        "CREATE INDEX locks table",
    ),
    "an index by a field's option": (
        'migrations.AddField("Item", "code", models.IntegerField(null=True, db_index=True))',
        "CREATE INDEX locks table",
    ),
    "an index that goes and locks the table": (
        'migrations.RemoveIndex("Item", "by_name")',
        "DROP INDEX locks table",
    ),
    "a unique constraint": (
        'migrations.AddConstraint("Item", models.UniqueConstraint(fields=["name"], name="one"))',
        "ADDING unique constraint",
    ),
    "a unique column": (
        'migrations.AlterField("Item", "name", models.CharField(max_length=10, unique=True))',
        "ADDING unique constraint",
    ),
    "a constraint that reads the table": (
        'migrations.AddConstraint("Item", positive)',
        "A new constraint reads the whole table",
    ),
    "a foreign key of an old column": (
        'migrations.RunSQL("""\nALTER TABLE migrating_item\n  ADD CONSTRAINT to_user\n'
        '  FOREIGN KEY (size)\n  REFERENCES auth_user (id)""", "")',
        "A new constraint reads the whole table",
    ),
    "Python without a way back": ("migrations.RunPython(forwards)", "is not reversible"),
    "SQL without a way back": ('migrations.RunSQL("SELECT 1")', "is not reversible"),
    "SQL that locks, on several lines": (
        'migrations.RunSQL("""\n-- why\nALTER TABLE migrating_item\n'
        '  ALTER COLUMN size TYPE bigint""", "")',
        "ALTERING columns",
    ),
}
GOOD = {
    "a column that may be null": (
        'migrations.AddField("Item", "colour", models.CharField(max_length=9, null=True))'
    ),
    "a column with a default in the database": (
        'migrations.AddField("Item", "colour", models.CharField(max_length=9, db_default="red"))'
    ),
    "a reference that may be null": (
        'migrations.AddField("Item", "parent", models.ForeignKey("Item", models.CASCADE, null=True,'
        " db_index=False))"
    ),
    "a table with all that belongs to it": (
        'migrations.CreateModel("Box", [("id", models.BigAutoField(primary_key=True)),'
        ' ("item", models.ForeignKey("Item", models.CASCADE)), ("code", models.IntegerField())]),'
        'migrations.AddConstraint("Box", models.UniqueConstraint(fields=["code"], name="one")),'
        'migrations.AddIndex("Box", models.Index(fields=["item", "code"], name="both")),'
        'migrations.RemoveField("Box", "code")'
    ),
    "an index beside the work": 'AddIndexConcurrently("Item", by_size)',
    "an index that goes beside the work": 'RemoveIndexConcurrently("Item", "by_name")',
    "a constraint for what is to come": 'AddConstraintNotValid("Item", positive)',
    "Python with a way back": "migrations.RunPython(forwards, migrations.RunPython.noop)",
    "a longer text": (
        'migrations.AlterField("Item", "name", models.CharField(max_length=10, blank=True))'
    ),
}


@pytest.fixture
def lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """What is wrong with a migration of these operations, after a release with a table `Item`."""
    monkeypatch.syspath_prepend(tmp_path)

    def check(operations: str) -> list[str]:
        folder = tmp_path / "migrating" / "migrations"
        folder.mkdir(parents=True)
        for package in (folder.parent, folder):
            (package / "__init__.py").touch()
        second = textwrap.dedent(SECOND).format(
            operations=operations, label="migrating", atomic="Concurrently" not in operations
        )
        (folder / "0001_initial.py").write_text(textwrap.dedent(FIRST))
        (folder / "0002_change.py").write_text(second)
        with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "migrating"]):
            loader = MigrationLoader(connection)
            return violations([loader.get_migration("migrating", "0002_change")])

    yield check
    for name in [name for name in sys.modules if name.partition(".")[0] == "migrating"]:
        del sys.modules[name]


@pytest.mark.parametrize(("operations", "expected"), BAD.values(), ids=BAD)
def test_the_rules_refuse(lint, operations, expected):
    found = lint(operations)
    assert found
    assert all(text.startswith("migrating.0002_change: ") for text in found)
    assert any(expected in text for text in found), found


@pytest.mark.parametrize("operations", GOOD.values(), ids=GOOD)
def test_the_rules_accept(lint, operations):
    assert lint(operations) == []
