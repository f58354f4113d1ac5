"""The releases of a host, made from a small clone whose environment needs no index."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.ops.errors import OpsError
from deploy.ops.releases import Release, Releases

FILES = {
    "pyproject.toml": '[project]\nname = "small"\nversion = "1.2.3"\n',
    "requirements/base.txt": "small==1\n",
    "scripts/lib/python.sh": (
        'ensure_venv() {\n    [ -e "$VENV" ] || python3 -m venv --without-pip "$VENV"\n}\n'
    ),
    "manage.py": "from pathlib import Path\nPath('staticfiles').mkdir()\n",
    "scripts/run": "#!/bin/sh\n",
}
BROKEN = "ensure_venv() { echo 'the index cannot be reached' >&2; return 1; }\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    for name, text in FILES.items():
        write(folder, name, text)
    (folder / "scripts/run").chmod(0o700)
    return folder


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "home")


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o600)


def files(release: Release) -> set[str]:
    names = (str(path.relative_to(release.path)) for path in release.path.rglob("*"))
    return {name for name in names if not name.startswith(".venv/") and "." in name}


def complete(releases: Releases, name: str) -> Release:
    release = Release(releases.folder / name)
    release.path.mkdir(parents=True)
    (release.path / ".complete").touch()
    os.utime(release.path / ".complete", (1, 1_000_000 + len(releases.list())))
    return release


def test_the_same_source_makes_the_same_release(clone: Path, releases: Releases) -> None:
    release = releases.make(clone)
    assert release.name.startswith("1.2.3-")
    assert (release.path / ".venv/bin/python").exists()
    assert (release.path / "staticfiles").is_dir()
    before = release.made_at
    assert releases.make(clone) == release
    assert (releases.list(), release.made_at) == ([release], before)
    write(clone, "manage.py", FILES["manage.py"] + "# new\n")
    assert releases.make(clone) != release
    assert len(releases.list()) == 2


def test_everybody_reads_a_release_and_nobody_else_writes_it(
    clone: Path, releases: Releases
) -> None:
    release = releases.make(clone)
    modes = {name: (release.path / name).stat().st_mode & 0o777 for name in FILES}
    assert modes == dict.fromkeys(FILES, 0o644) | {"scripts/run": 0o755}
    assert release.path.stat().st_mode & 0o777 == 0o755


def test_of_a_clone_goes_what_git_knows_as_it_is_now(clone: Path, releases: Releases) -> None:
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=clone, check=True)
    write(clone, ".env", "SECRET=1\n")
    write(clone, "notes.txt", "of the clone's owner alone")
    (clone / "scripts/run").unlink()
    assert not {".env", "notes.txt", ".git", "scripts/run"} & files(releases.make(clone))


def test_of_an_unpacked_archive_goes_all_but_what_runs_leave(
    clone: Path, releases: Releases
) -> None:
    for name in (".env", "var/data.txt", ".venv/pyvenv.cfg", "secrets/KEY.txt", "a/var/kept.txt"):
        write(clone, name, "text")
    made = files(releases.make(clone))
    assert "a/var/kept.txt" in made
    assert not {".env", "var/data.txt", "secrets/KEY.txt"} & made


def test_what_fails_leaves_nothing(clone: Path, releases: Releases) -> None:
    write(clone, "scripts/lib/python.sh", BROKEN)
    with pytest.raises(OpsError, match="the index cannot be reached"):
        releases.make(clone)
    assert (list(releases.folder.iterdir()), releases.list()) == ([], [])


def test_what_was_interrupted_is_made_anew(clone: Path, releases: Releases) -> None:
    unfinished = releases.of(clone)
    write(unfinished.path, "half.txt", "of a file")
    assert releases.list() == []
    assert "half.txt" not in files(releases.make(clone))


def test_releases_with_the_same_lock_share_an_environment(clone: Path, releases: Releases) -> None:
    def venv(release: Release) -> Path:
        return (release.path / ".venv").resolve()

    first = releases.make(clone)
    write(clone, "manage.py", FILES["manage.py"] + "# new\n")
    second = releases.make(clone)
    write(clone, "requirements/base.txt", "small==2\n")
    third = releases.make(clone)
    assert venv(first) == venv(second) != venv(third)
    releases.switch(third)
    releases.prune(keep=2)
    assert {*releases.venvs.iterdir()} == {venv(second), venv(third)}
    releases.prune(keep=1)
    assert {*releases.venvs.iterdir()} == {venv(third)}


def test_current_turns_in_one_step(releases: Releases) -> None:
    assert releases.current() is None
    first, second = complete(releases, "1-a"), complete(releases, "2-b")
    for release in (first, second, first):
        releases.switch(release)
        assert releases.current() == release
        assert os.readlink(releases.link) == f"releases/{release.name}"
    with pytest.raises(OpsError, match="no complete release"):
        releases.switch(Release(releases.folder / "3-c"))


def test_pruning_keeps_the_newest_and_the_current_one(releases: Releases) -> None:
    made = [complete(releases, name) for name in ("9-a", "8-b", "7-c", "6-d", "5-e")]
    releases.switch(made[0])
    (releases.folder / "unfinished").mkdir()
    gone = releases.prune(keep=2)
    assert [release.name for release in gone] == ["7-c", "8-b", "unfinished"]
    assert releases.list() == [made[0], *made[3:]]


def test_a_release_that_is_not_there_is_named_with_those_that_are(releases: Releases) -> None:
    complete(releases, "1-a")
    assert releases.get("1-a").name == "1-a"
    with pytest.raises(OpsError, match=r"no release 2-b in .*; there: 1-a"):
        releases.get("2-b")


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path, releases: Releases) -> None:
    with pytest.raises(OpsError, match="is no clone of Flash Promos"):
        releases.make(tmp_path)
