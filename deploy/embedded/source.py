"""When the code that the programs run changed last."""

from collections.abc import Iterable
from pathlib import Path

from deploy.embedded.folder import PROJECT

#: Packages of the clone that no program loads.
OTHERS = {"tests", "benchmarks"}


def changed_at() -> float:
    """The time of the newest file of any package of ours, its tests aside."""
    packages = [path.parent for path in PROJECT.glob("*/__init__.py")]
    return newest(
        path
        for package in packages
        if package.name not in OTHERS
        for path in package.rglob("*")
        if path.is_file() and not {"tests", "__pycache__"} & set(path.parts[:-1])
    )


def newest(paths: Iterable[Path]) -> float:
    return max((path.stat().st_mtime for path in paths), default=0.0)
