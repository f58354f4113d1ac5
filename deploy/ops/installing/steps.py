"""A step of an installation, and the kinds that are not about our programs."""

import grp
import os
import pwd
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import cli, shell
from deploy.ops.errors import OpsError
from deploy.ops.host import DATA, USER


class Step(ABC):
    @abstractmethod
    def describe(self) -> str:
        """What it does, as an order: `make the user flash-promos`."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether the host is as it should be; changes nothing, works before any other step."""

    @abstractmethod
    def do(self) -> None:
        """Bring it there."""

    # Most steps can always be done.
    def check(self) -> None:  # noqa: B027
        """An OpsError when it cannot be done; changes nothing."""


def carry_out(steps: Sequence[Step], *, dry_run: bool) -> int:
    """Check all, then do what is not done, or say what would be; how many that are."""
    open_steps = [step for step in steps if not step.is_done()]
    for step in open_steps:
        step.check()
    if dry_run:
        for step in open_steps:
            cli.say(f"would {step.describe()}")
        return len(open_steps)
    done = 0
    for step in steps:
        # Asked again: a step before may have brought this one along, or undone it.
        if not step.is_done():
            with cli.step(sentence(step.describe())):
                step.do()
            done += 1
    return done


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Packages(Step):
    """Debian packages; who does not want them installed gets the command."""

    #: By a program of each, as a server may also come from elsewhere.
    programs: dict[str, str]
    may_install: bool

    def missing(self) -> list[str]:
        return [name for program, name in self.programs.items() if not shutil.which(program)]

    def describe(self) -> str:
        return f"install the packages {' '.join(self.missing())}"

    def is_done(self) -> bool:
        return not self.missing()

    def check(self) -> None:
        if not self.may_install:
            missing = " ".join(self.missing())
            raise OpsError(
                f"packages are missing: {missing}; install them (apt-get install {missing}), "
                "or let this do it by --apt"
            )

    def do(self) -> None:
        variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        shell.run(["apt-get", "update"], env=variables)
        install = ["apt-get", "install", "--yes", "--no-install-recommends"]
        shell.run([*install, *self.missing()], env=variables)


class User(Step):
    def describe(self) -> str:
        return f"make the user {USER}"

    def is_done(self) -> bool:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return False
        return True

    def do(self) -> None:
        home = ["--home-dir", str(DATA), "--no-create-home", "--shell", "/usr/sbin/nologin"]
        shell.run(["useradd", "--system", "--user-group", *home, USER])


@dataclass(frozen=True)
class Folder(Step):
    path: Path
    mode: int = 0o755
    owner: str = "root"
    group: str = "root"

    def describe(self) -> str:
        return f"make the folder {self.path} ({self.owner}:{self.group} {self.mode:04o})"

    def is_done(self) -> bool:
        return self.path.is_dir() and belongs(self.path, self.owner, self.group, self.mode)

    def do(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        give(self.path, self.owner, self.group, self.mode)


@dataclass(frozen=True)
class File(Step):
    """A file with this text and no other."""

    path: Path
    text: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"

    def describe(self) -> str:
        return f"write {self.path} ({self.owner}:{self.group} {self.mode:04o})"

    def is_done(self) -> bool:
        try:
            written = self.path.read_text(encoding="utf-8")
        except OSError:
            return False
        return written == self.text and belongs(self.path, self.owner, self.group, self.mode)

    def do(self) -> None:
        """Whole or not at all, and at no moment readable for others."""
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(self.text, encoding="utf-8")
        give(unfinished, self.owner, self.group, self.mode)
        unfinished.replace(self.path)


def belongs(path: Path, owner: str, group: str, mode: int) -> bool:
    status = path.stat()
    try:
        ids = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        return False
    return (status.st_uid, status.st_gid) == ids and stat.S_IMODE(status.st_mode) == mode


def give(path: Path, owner: str, group: str, mode: int) -> None:
    os.chown(path, pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    path.chmod(mode)
