"""`python -m marketplace.media save|load`: MEDIA_ROOT as a tar archive, for backups.

`save` writes it to standard output. `load` reads one from standard input, and puts what it holds in
the place of what is there once all of it was read.
"""

import os
import shutil
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

#: Entries of MEDIA_ROOT, on whose file system they must be.
UNFINISHED, FORMER = ".restoring", ".before-restore"


def entries(root: Path) -> Iterable[Path]:
    return (path for path in sorted(root.iterdir()) if path.name not in (UNFINISHED, FORMER))


def save(root: Path) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for path in entries(root) if root.is_dir() else ():
            archive.add(path, path.name)


def load(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    unfinished, former = root / UNFINISHED, root / FORMER
    for folder in (unfinished, former):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        archive.extractall(unfinished, filter="data")
    for path in list(entries(root)):
        path.rename(former / path.name)
    for path in list(unfinished.iterdir()):
        path.rename(root / path.name)
    unfinished.rmdir()
    shutil.rmtree(former)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    from django.conf import settings

    if sys.argv[1:] not in (["save"], ["load"]):
        sys.exit("usage: python -m marketplace.media save|load")
    try:
        (save if sys.argv[1] == "save" else load)(Path(settings.MEDIA_ROOT))
    except (OSError, tarfile.TarError) as error:
        sys.exit(f"error: {settings.MEDIA_ROOT}: {error}")


if __name__ == "__main__":
    main()
