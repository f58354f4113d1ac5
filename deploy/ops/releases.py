"""The releases on a bare host: each a folder with its code and its static files, of which the link
`current` names one.

A release is named by its version and by what is in it (`1.4.0-3f9a2c71`), so the same source makes
the same release. Its `.venv` is a link to a Python environment that all releases with the same
locked requirements share. All belongs to root, and the programs cannot change it.
"""

import hashlib
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.ops import shell
from deploy.ops.errors import OpsError
from deploy.ops.host import HOME

#: Written into a release as the last thing; one without it was interrupted.
COMPLETE = ".complete"
#: What is no source, in a clone's folder without git's list: names, at its top or anywhere.
NO_SOURCE_TOP = {"var", "staticfiles", "secrets", ".env", COMPLETE}
NO_SOURCE = {".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


@dataclass(frozen=True)
class Release:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def version(self) -> str:
        """As pyproject.toml says it."""
        return version_of(self.path)

    @property
    def made_at(self) -> datetime:
        return datetime.fromtimestamp((self.path / COMPLETE).stat().st_mtime, UTC)

    @property
    def is_complete(self) -> bool:
        return (self.path / COMPLETE).exists()


@dataclass(frozen=True)
class Releases:
    """Those in `home`/releases; `home`/current is a link to the one that runs."""

    home: Path = HOME

    @property
    def folder(self) -> Path:
        return self.home / "releases"

    @property
    def venvs(self) -> Path:
        return self.home / "venvs"

    @property
    def link(self) -> Path:
        return self.home / "current"

    def list(self) -> list[Release]:
        """The complete ones, the oldest first."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        found = [release for path in paths if (release := Release(path)).is_complete]
        return sorted(found, key=lambda release: release.made_at)

    def current(self) -> Release | None:
        """The one that `current` names, None before the first."""
        return Release(self.link.resolve()) if self.link.exists() else None

    def get(self, name: str) -> Release:
        """By its name; an OpsError that lists those that are there."""
        for release in self.list():
            if release.name == name:
                return release
        there = ", ".join(release.name for release in self.list()) or "none"
        raise OpsError(f"there is no release {name} in {self.folder}; there: {there}")

    def of(self, source: Path) -> Release:
        """The release that `make` makes of this folder, there or not."""
        return Release(self.folder / name_of(source))

    def make(self, source: Path) -> Release:
        """A release of the files in a clone, changed ones as they are; the same one again when it
        is there. What fails or is interrupted leaves nothing."""
        release = self.of(source)
        if release.is_complete:
            return release
        umask = os.umask(0o022)
        try:
            shutil.rmtree(release.path, ignore_errors=True)
            with removed_on_failure(release.path):
                copy(source, release.path)
                self._link_venv(release.path)
                collect_static(release.path)
                compile_all(release.path)
                (release.path / COMPLETE).touch()
        finally:
            os.umask(umask)
        return release

    def _link_venv(self, path: Path) -> None:
        lock = (path / "requirements" / "base.txt").read_bytes()
        venv = self.venvs / hashlib.sha256(lock).hexdigest()[:8]
        venv.parent.mkdir(exist_ok=True)
        make_venv(path, venv)
        (path / ".venv").symlink_to(os.path.relpath(venv, path))

    def switch(self, release: Release) -> None:
        """Turn `current` to it, in one step: at no moment is there none."""
        if not release.is_complete:
            raise OpsError(f"{release.path} is no complete release")
        new = self.home / ".current.new"
        new.unlink(missing_ok=True)
        new.symlink_to(release.path.relative_to(self.home))
        new.replace(self.link)

    def prune(self, keep: int = 3) -> tuple[Release, ...]:
        """Remove all but the newest `keep` and the current one, and what was left unfinished."""
        complete, current = self.list(), self.current()
        kept = {release.path for release in (*complete[-keep:], current) if release}
        gone = tuple(Release(path) for path in sorted(self.folder.iterdir()) if path not in kept)
        for release in gone:
            # First of all it stops being one.
            (release.path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(release.path)
        used = {(release.path / ".venv").resolve() for release in self.list()}
        for venv in self.venvs.iterdir() if self.venvs.is_dir() else ():
            if venv.resolve() not in used:
                shutil.rmtree(venv)
        return gone


# --- What a release is made of -------------------------------------------------------------------
def version_of(source: Path) -> str:
    try:
        text = (source / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        raise OpsError(f"{source} is no clone of Flash Promos: no pyproject.toml") from None
    return str(tomllib.loads(text)["project"]["version"])


def name_of(source: Path) -> str:
    """Version and the first of a digest over each file's name, mode and content."""
    version, digest = version_of(source), hashlib.sha256()
    for name in files_of(source):
        content = hashlib.sha256((source / name).read_bytes()).hexdigest()
        digest.update(f"{name}\0{os.access(source / name, os.X_OK)}\0{content}\n".encode())
    return f"{version}-{digest.hexdigest()[:8]}"


def files_of(source: Path) -> list[str]:
    """The names of the files that are source: git's, or all of an unpacked archive's."""
    if (source / ".git").exists() and shutil.which("git"):
        # The clone may be another user's than root's.
        git = ["git", "-c", f"safe.directory={source.resolve()}", "-C", str(source)]
        names = shell.run([*git, "ls-files", "-z", "--cached"]).split("\0")
        return sorted(name for name in names if name and (source / name).is_file())
    return sorted(_walk(source))


def _walk(source: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(source):
        no_source = NO_SOURCE | (NO_SOURCE_TOP if Path(folder) == source else set())
        folders[:] = [name for name in folders if name not in no_source]
        for name in files:
            if name not in no_source and not name.endswith(".pyc"):
                yield str((Path(folder) / name).relative_to(source))


def copy(source: Path, target: Path) -> None:
    """For everybody to read, whatever umask the clone was made under."""
    for name in files_of(source):
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, file)
        file.chmod(0o755 if os.access(source / name, os.X_OK) else 0o644)


def make_venv(path: Path, venv: Path) -> None:
    """From the release's lock, by its hashes; one that is there is used as it is."""
    script = 'source "$1"; ensure_venv base'
    command = ["bash", "-euo", "pipefail", "-c", script, "make-venv"]
    _show([*command, f"{path}/scripts/lib/python.sh"], VENV=str(venv))


def collect_static(path: Path) -> None:
    # These files need no secrets, but settings do not load without any.
    secrets = ("DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH")
    variables = dict.fromkeys(secrets, "user:of-the-making-alone-and-of-nothing-else")
    python = str(path / ".venv" / "bin" / "python")
    command = [python, "manage.py", "collectstatic", "--noinput", "--verbosity", "0"]
    # Nothing of this shell's: the release is the same whoever makes it.
    shell.run(command, cwd=path, env={"PATH": os.environ["PATH"]} | variables)


def compile_all(path: Path) -> None:
    """The programs cannot write bytecode into it."""
    python = str(path / ".venv" / "bin" / "python")
    # Some packages bring files for other versions of Python, which do not compile.
    venv = str((path / ".venv").resolve())
    shell.try_run([python, "-m", "compileall", "-q", "-j", "0", str(path), venv])


def _show(command: list[str], **variables: str) -> None:
    """Run it with its progress on this terminal; an OpsError with its last words."""
    sys.stdout.flush()
    shell.stream(command, stdout=sys.stdout.buffer, env=os.environ | variables)


@contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
