"""What a migration may do: the release before still runs while it is applied, and may come back.

django-migration-linter reads the SQL; here are the few things that it does not know.
"""

import re
from collections.abc import Iterable

import sqlparse
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django_migration_linter import MigrationLinter
from django_migration_linter.sql_analyser.base import Check, CheckMode, CheckType, Issue
from django_migration_linter.sql_analyser.postgresql import PostgresqlAnalyser

#: Codes of the linter that are matters of style.
STYLE = ("RUNPYTHON_ARGS_NAMING_CONVENTION", "RUNPYTHON_MODEL_VARIABLE_NAME")

#: Beside the linter's own words, what would be right.
ADVICE = {
    "NOT_NULL": "give it a db_default, or null=True: the release before does not know it",
    "DROP_COLUMN": "first let a release go by that does not use it",
    "DROP_TABLE": "first let a release go by that does not use it",
    "RENAME_COLUMN": "add the new one, and drop the old one a release later",
    "RENAME_TABLE": "keep the name in the database: Meta.db_table",
    "ALTER_COLUMN": "add a new column, and drop the old one a release later",
    "ADD_UNIQUE": "make the index concurrently, and the constraint of it by RunSQL",
    "CREATE_INDEX": "use AddIndexConcurrently",
    "CREATE_INDEX_EXCLUSIVE": "put the index into a migration of its own",
    "DROP_INDEX": "use RemoveIndexConcurrently",
    "VALIDATED_CONSTRAINT": "add it NOT VALID (a check by AddConstraintNotValid), "
    "and validate it a migration later",
    "RUNPYTHON_REVERSIBLE": "give it a reverse_code, be it RunPython.noop",
    "RUNSQL_REVERSIBLE": "give it a reverse_sql, be it RunSQL.noop",
}

_TABLE = re.compile(
    r'(?:(?:CREATE|ALTER|DROP) TABLE (?:IF (?:NOT )?EXISTS )?|INDEX\b.*? ON )(?:ONLY )?"?(\w+)',
    re.IGNORECASE,
)


def _validates(statement: str, **_: object) -> bool:
    return bool(
        re.search(r"ADD CONSTRAINT .*\b(CHECK|FOREIGN KEY|EXCLUDE)\b", statement)
        and "NOT VALID" not in statement
    )


class Analyser(PostgresqlAnalyser):
    migration_checks = [
        *PostgresqlAnalyser.migration_checks,
        Check(
            code="VALIDATED_CONSTRAINT",
            fn=_validates,
            message="A new constraint reads the whole table, which is locked meanwhile",
            mode=CheckMode.ONE_LINER,
            type=CheckType.ERROR,
        ),
    ]


class Linter(MigrationLinter):
    """Collects what is wrong, of whole statements, with the tables that a release knows."""

    def __init__(self) -> None:
        super().__init__(all_warnings_as_errors=True, exclude_migration_tests=STYLE, no_output=True)
        self.sql_analyser_class = Analyser
        self.found: list[Issue] = []
        self._new_tables: set[str] = set()

    def get_sql(self, app_label: str, migration_name: str) -> list[str]:
        sql = "\n".join(super().get_sql(app_label, migration_name))
        found = []
        for text in sqlparse.split(sqlparse.format(sql, strip_comments=True)):
            statement = " ".join(text.split())
            table = _TABLE.match(statement.removeprefix("CREATE UNIQUE ").removeprefix("CREATE "))
            table = table or _TABLE.match(statement)
            name = table[1] if table else ""
            if re.match("CREATE TABLE", statement, re.IGNORECASE):
                self._new_tables.add(name)
            if name not in self._new_tables:
                found.append(statement)
        return found

    def print_errors(self, errors: list[Issue]) -> None:
        self.found += errors


def violations(migrations: Iterable[Migration]) -> list[str]:
    """What is wrong with them, taken in this order."""
    linter, told = Linter(), []
    for migration in migrations:
        linter.found = []
        linter.lint_migration(migration)
        for issue in linter.found:
            where = ".".join(filter(None, (issue.table, issue.column)))
            told.append(
                f"{migration.app_label}.{migration.name}: {issue.message}"
                f"{f' ({where})' if where else ''}: {ADVICE.get(issue.code, issue.code)}"
            )
    return told


def since(release: dict[str, str]) -> list[Migration]:
    """The project's migrations that came after a release's last ones, in their order."""
    loader = MigrationLoader(connection)
    ours = {
        config.label
        for config in apps.get_app_configs()
        if config.path.startswith(str(settings.BASE_DIR)) and "site-packages" not in config.path
    }
    released = {key for target in release.items() for key in loader.graph.forwards_plan(target)}
    plan: list[tuple[str, str]] = []
    for leaf in loader.graph.leaf_nodes():
        plan += [key for key in loader.graph.forwards_plan(leaf) if key not in plan]
    return [loader.get_migration(*key) for key in plan if key[0] in ours and key not in released]
