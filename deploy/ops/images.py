"""scripts/images: everything that production runs in one file, for a host without a network."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.ops import cli, releases, shell
from deploy.ops.compose import PRODUCTION
from deploy.ops.deployment import PROJECT
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.settings_file import SettingsFile

DESCRIPTION = """
Takes everything that production under Compose runs to a host without a network, in one file: this
source, all images, and a list of their digests. `load` checks every sum before it changes anything.
"""

EPILOG = """
on a machine with a network:
  docker compose -f docker-compose.yml -f docker-compose.prod.yml build
  scripts/images save flash-promos.tar.zst

on the host, the first time (GNU tar; zstd for a .zst):
  tar -xf flash-promos.tar.zst source.tar && mkdir promos && tar -xf source.tar -C promos
  promos/scripts/images load flash-promos.tar.zst

on the host, to upgrade:
  scripts/images load flash-promos.tar.zst --source .
  scripts/upgrade IMAGE              the one that load names
"""

SOURCE, IMAGES, MANIFEST = "source.tar", "images.tar", "manifest.json"
#: Without them the compose files are not resolved; they do not get into the archive.
SECRETS = ("DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/images",
        description=DESCRIPTION.strip(),
        epilog=f"{EPILOG.strip()}\n{cli.EXIT_CODES.strip()}",
        formatter_class=cli.Formatter,
    )
    commands = made.add_subparsers(dest="command", metavar="save|load", required=True)
    saving = commands.add_parser("save", help="write the file")
    saving.add_argument("file", metavar="FILE", type=Path, help=".tar.zst, or .tar.gz")
    saving.add_argument(
        "--with-dev", action="store_true", help="with the images of development (LocalStack), too"
    )
    loading = commands.add_parser("load", help="check the file and load its images")
    loading.add_argument("file", metavar="FILE", type=Path)
    loading.add_argument(
        "--source", metavar="FOLDER", type=Path, help="unpack the source over this folder, too"
    )
    return made


def main() -> int | None:
    arguments = parser().parse_args()
    if arguments.command == "save":
        save(arguments.file.absolute(), with_dev=arguments.with_dev)
    else:
        load(arguments.file.absolute(), arguments.source and arguments.source.absolute())
    return 0


# --- save ----------------------------------------------------------------------------------------
def save(file: Path, *, with_dev: bool) -> None:
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}")
    names = production_images() | (development_images() if with_dev else set())
    images = {name: layers_of(name) or fetched(name) for name in sorted(names)}
    require_room(file.parent, 2 * sum(size_of(name) for name in images))
    with workshop(file) as folder:
        with cli.step("Packing the source"):
            pack_source(folder / SOURCE)
        with cli.step(f"Packing {len(images)} images"):
            shell.run(["docker", "save", "--output", str(folder / IMAGES), *images])
        members = {name: sum_of(folder / name) for name in (SOURCE, IMAGES)}
        manifest = {"release": releases.name_of(PROJECT), "images": images, "sha256": members}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        unfinished = folder / file.name
        with cli.step("Compressing"):
            compress(folder, unfinished)
        sum_file(file).write_text(f"{sum_of(unfinished)}  {file.name}\n")
        unfinished.replace(file)
    cli.say(f"{file}: {cli.size(file.stat().st_size)}, its sum in {sum_file(file).name}")
    for name in images:
        cli.say(f"  {name}")


def production_images() -> set[str]:
    return resolved(_settings().get("COMPOSE_FILE") or PRODUCTION)


def development_images() -> set[str]:
    return resolved("docker-compose.yml")


def resolved(files: str) -> set[str]:
    """The images that these compose files name, with this folder's .env and this shell."""
    variables = dict.fromkeys(SECRETS, "of-nobody") | os.environ | {"COMPOSE_FILE": files}
    command = ["docker", "compose", "--project-directory", str(PROJECT), "config"]
    config = json.loads(shell.run([*command, "--format", "json"], env=variables, cwd=PROJECT))
    return {service["image"] for service in config["services"].values()}


def _settings() -> dict[str, str]:
    file = PROJECT / ".env"
    return SettingsFile(file).read() if file.exists() else {}


def layers_of(image: str) -> list[str]:
    """What it is made of, the same on every host; empty when it is not here."""
    found = _inspected(image)
    return list(found["RootFS"]["Layers"]) if found else []


def size_of(image: str) -> int:
    return int((_inspected(image) or {})["Size"])


def _inspected(image: str) -> dict[str, Any] | None:
    done = shell.try_run(["docker", "image", "inspect", image])
    if "No such image" in done.stderr:
        return None
    if done.returncode:
        raise OpsError(shell.failure(["docker", "image", "inspect", image], done))
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def fetched(image: str) -> list[str]:
    if shell.try_run(["docker", "pull", "--quiet", image]).returncode:
        raise OpsError(
            f"there is no image {image} here, and none could be fetched; the application's own: "
            "docker compose -f docker-compose.yml -f docker-compose.prod.yml build"
        )
    return layers_of(image)


def pack_source(target: Path) -> None:
    with tarfile.open(target, "w") as archive:
        for name in releases.files_of(PROJECT):
            archive.add(PROJECT / name, name, filter=_of_nobody)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Readable for everybody, whatever umask the clone was made under."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def compress(folder: Path, target: Path) -> None:
    packed = ["tar", "--create", "--directory", str(folder), MANIFEST, SOURCE, IMAGES]
    if target.suffix == ".gz" or not shutil.which("zstd"):
        program = ["gzip", "--fast", "--stdout"]
    else:
        program = ["zstd", "--threads=0", "--quiet", "--stdout"]
    with target.open("wb") as output, subprocess.Popen(packed, stdout=subprocess.PIPE) as tar:
        shell.stream(program, stdin=tar.stdout, stdout=output)
    if tar.returncode:
        raise OpsError(f"{shell.shown(packed)} failed")


# --- load ----------------------------------------------------------------------------------------
def load(file: Path, source: Path | None) -> None:
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    if source and not source.is_dir():
        raise UsageError(f"there is no folder {source}")
    with workshop(file) as folder:
        with cli.step(f"Checking {file.name}"):
            check_sum(file)
            manifest = unpack(file, folder)
        with cli.step(f"Loading {len(manifest['images'])} images"):
            shell.run(["docker", "load", "--input", str(folder / IMAGES)])
        for name, layers in manifest["images"].items():
            if layers_of(name) != layers:
                raise OpsError(f"{name} was loaded and is not what {file.name} says it is")
        if source:
            with tarfile.open(folder / SOURCE) as archive:
                archive.extractall(source, filter="data")
    cli.say(f"Release {manifest['release']} is here:")
    for name in manifest["images"]:
        cli.say(f"  {name}")


def check_sum(file: Path) -> None:
    """Against the sum that lies beside it, if one does."""
    if not sum_file(file).exists():
        cli.warn(f"{sum_file(file)} is not there: only the sums within are checked")
        return
    if sum_file(file).read_text().split()[:1] != [sum_of(file)]:
        raise OpsError(f"{file} is not what {sum_file(file).name} says: fetch both again")


def unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Its members into the folder, each with the sum that the manifest names; the manifest."""
    damaged = OpsError(f"{file} is damaged or not of scripts/images save: fetch it again")
    with file.open("rb") as start:
        is_zstd = start.read(4) == b"\x28\xb5\x2f\xfd"
    program = ["zstd", "--decompress", "--stdout", "--quiet"] if is_zstd else ["gzip", "-dc"]
    with (folder / "archive.tar").open("wb") as archive, file.open("rb") as compressed:
        try:
            shell.stream(program, stdin=compressed, stdout=archive)
        except OpsError as error:
            raise damaged if "not installed" not in str(error) else error from None
    try:
        with tarfile.open(folder / "archive.tar") as archive_file:
            for name in (MANIFEST, SOURCE, IMAGES):
                archive_file.extract(name, folder, filter="data")
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sums = manifest["sha256"]
    except (tarfile.TarError, KeyError, ValueError):
        raise damaged from None
    (folder / "archive.tar").unlink()
    for name in (SOURCE, IMAGES):
        if sums.get(name) != sum_of(folder / name):
            raise OpsError(f"{name} in {file} has another sum than its manifest says")
    return manifest


# --- Both ----------------------------------------------------------------------------------------
@contextmanager
def workshop(file: Path) -> Iterator[Path]:
    """A folder beside the file, gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix=".images-", dir=file.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OpsError(f"{error.filename or file}: {error.strerror}") from error


def require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OpsError(
            f"the disk is too full: {cli.size(needed)} are needed in {folder}, "
            f"{cli.size(free)} are free"
        )


def sum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def sum_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    cli.run(main)
