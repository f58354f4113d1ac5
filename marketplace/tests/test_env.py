"""Variables are read typed, and a wrong one is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from marketplace.env import Env


def test_an_unset_or_empty_variable_gives_the_default():
    env = Env({"EMPTY": ""})
    assert (env.integer("EMPTY", 3), env.words("UNSET", ["a"])) == (3, ["a"])


def test_values_are_typed():
    env = Env({"N": "5", "F": "yes", "W": "a, b,,c", "S": "2.5", "T": "text"})
    assert env.integer("N", 0) == 5
    assert env.boolean("F", False) is True
    assert env.words("W", []) == ["a", "b", "c"]
    assert env.seconds("S", 1.0) == 2.5
    assert env.text("T") == "text"


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        ("five", "integer", "invalid literal"),
        ("-1", "integer", "at least 0"),
        ("maybe", "boolean", "expected one of 1, true, yes, on, 0"),
        ("nan", "seconds", "at least 0.1"),
        ("0", "seconds", "at least 0.1"),
    ],
)
def test_a_wrong_value_names_the_variable(value, kind, reason):
    with pytest.raises(ImproperlyConfigured, match=f"NAME='{value}': .*{reason}"):
        getattr(Env({"NAME": value}), kind)("NAME", 1)


def test_a_value_may_come_from_a_file(tmp_path):
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    assert Env({"NAME_FILE": str(path)}).text("NAME") == "s3cret"


def test_a_value_and_a_file_at_once_are_refused(tmp_path):
    with pytest.raises(ImproperlyConfigured, match="NAME and NAME_FILE are both set"):
        Env({"NAME": "a", "NAME_FILE": str(tmp_path)}).text("NAME")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ImproperlyConfigured, match=r"NAME_FILE=.*missing"):
        Env({"NAME_FILE": str(tmp_path / "missing")}).text("NAME")


def test_what_was_read_is_declared_with_its_default():
    env = Env({})
    env.integer("N", 7)
    assert env.declared == {"N": 7}


# --- ENV_FILE ---
def started_with(file: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """A process of the project, which prints its region."""
    code = "import marketplace, os; print(os.environ['AWS_DEFAULT_REGION'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environ | {"ENV_FILE": str(file)},
        capture_output=True,
        text=True,
    )


def test_the_variables_of_a_file_reach_each_process_as_they_stand(tmp_path):
    file = tmp_path / "env"
    file.write_text("# why\n\nAWS_DEFAULT_REGION=a b$HOME\"'#\nnot a variable\n")
    assert started_with(file).stdout == "a b$HOME\"'#\n"
    file.write_text("AWS_DEFAULT_REGION='a#b$c'\n")  # as .env.example advises
    assert started_with(file).stdout == "a#b$c\n"
    file.write_text("AWS_DEFAULT_REGION=mars-1\n")
    assert started_with(file, AWS_DEFAULT_REGION="moon-1").stdout == "mars-1\n"


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = started_with(tmp_path / "none")
    assert done.returncode == 1
    assert f"ENV_FILE={tmp_path}/none: " in done.stderr
