import stat
from pathlib import Path

import pytest

from deploy.embedded.environment import Environment
from deploy.embedded.errors import QuickstartError
from deploy.embedded.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_secrets_are_made_once(folder: Folder):
    first = Environment.load(folder, {})
    first.save()
    again = Environment.load(folder, {})
    assert again.values == first.values
    assert again.is_saved()
    assert stat.S_IMODE(folder.env_file.stat().st_mode) == 0o600


def test_secrets_differ_between_folders(tmp_path: Path):
    one, two = (Environment.load(Folder(tmp_path / name), {}) for name in "ab")
    assert one.values["DJANGO_SECRET_KEY"] != two.values["DJANGO_SECRET_KEY"]


def test_ports_of_the_shell_are_kept_and_the_rest_of_it_is_not(folder: Folder):
    shell = {"HOST_PORT_WEB": "8123", "POSTGRES_PASSWORD": "shell", "CELERY_BROKER_URL": "x"}
    Environment.load(folder, shell).save()
    values = Environment.load(folder, {}).values
    assert values["HOST_PORT_WEB"] == "8123"
    assert values["POSTGRES_PASSWORD"] != "shell"
    assert "CELERY_BROKER_URL" not in values


def test_new_port_replaces_its_line_alone(folder: Folder):
    folder.env_file.write_text("# mine\nHOST_PORT_WEB=8123\nLOG_LEVEL=DEBUG\n")
    environment = Environment.load(folder, {"HOST_PORT_WEB": "8124"})
    assert environment.text.startswith("# mine\nHOST_PORT_WEB=8124\nLOG_LEVEL=DEBUG\n")


def test_missing_lines_are_added_after_a_file_without_newline(folder: Folder):
    folder.env_file.write_text("LOG_LEVEL=DEBUG")
    environment = Environment.load(folder, {})
    assert environment.text.startswith("LOG_LEVEL=DEBUG\nHOST_PORT_WEB=8000\n")


def test_file_wins_over_what_is_derived_and_over_the_shell(folder: Folder, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://nowhere")
    folder.env_file.write_text("CELERY_WORKER_CONCURRENCY=7\n")
    variables = Environment.load(folder, {}).of_programs()
    assert variables["CELERY_WORKER_CONCURRENCY"] == "7"
    assert variables["POSTGRES_HOST"] == "127.0.0.1"
    assert "CELERY_BROKER_URL" not in variables


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_wrong_port_is_refused(folder: Folder, text: str):
    with pytest.raises(QuickstartError, match=f"HOST_PORT_WEB={text} is no port"):
        _ = Environment.load(folder, {"HOST_PORT_WEB": text}).ports


def test_port_given_twice_is_refused(folder: Folder):
    with pytest.raises(QuickstartError, match="HOST_PORT_FLOWER and HOST_PORT_WEB are both 8000"):
        _ = Environment.load(folder, {"HOST_PORT_FLOWER": "8000"}).ports


def test_broken_line_is_named(folder: Folder):
    folder.env_file.write_text("LOG_LEVEL=DEBUG\nnonsense\n")
    with pytest.raises(QuickstartError, match="env, line 2: expected NAME=value"):
        Environment.load(folder, {})
