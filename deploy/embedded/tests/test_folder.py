import os
from pathlib import Path

import pytest

from deploy.embedded.errors import QuickstartError
from deploy.embedded.folder import Folder


def test_socket_path_is_short_wherever_the_folder_lies(tmp_path: Path):
    folder = Folder(tmp_path / ("deep" * 30) / ("deeper" * 30))
    folder.make()
    folder.make_run()
    try:
        # supervisord binds a name with its process id appended.
        assert len(os.fsencode(folder.socket)) < 90
        assert folder.socket.parent.stat().st_mode & 0o077 == 0
        kept = folder.socket
        folder.make_run()
        assert folder.socket == kept
    finally:
        folder.remove_run()
    assert not kept.parent.exists()


def test_link_into_an_emptied_tmp_is_renewed(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.make_run()
    gone = folder.socket.parent
    gone.rmdir()
    folder.make_run()
    try:
        assert folder.socket.parent != gone
        assert folder.socket.parent.is_dir()
    finally:
        folder.remove_run()


def test_second_run_at_the_same_time_is_refused(tmp_path: Path):
    folder = Folder(tmp_path / "embedded")
    with (
        folder.locked(),
        pytest.raises(QuickstartError, match="another scripts/quickstart"),
        folder.locked(),
    ):
        pass


def test_folder_of_a_run_that_made_nothing_goes(tmp_path: Path):
    folder = Folder(tmp_path / "embedded")
    with folder.locked():
        assert folder.path.exists()
    assert not folder.path.exists()


def test_remove_leaves_what_is_not_ours(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.make()
    folder.env_file.touch()
    (tmp_path / "thesis.txt").touch()
    folder.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
