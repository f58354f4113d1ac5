"""scripts/images: production goes in one file to a host that has no network."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.stack.stack import PRODUCTION, Stack, copy_project, run

EDITS = {"marketplace/health.py": ('{"status": "ok"}', '{"status": "carried"}')}


@pytest.fixture
def clone(tmp_path: Path, failed: Callable[[], bool]) -> Iterator[Stack]:
    """On the machine that has a network; nothing runs there."""
    clone = Stack(copy_project(tmp_path / "clone"), PRODUCTION)
    clone.variables["APP_IMAGE"] = f"{clone.name}:carried"
    assert run("scripts/init-env", cwd=clone.folder).returncode == 0
    with clone.running(failed):
        yield clone


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the file, which is large."""
    with TemporaryDirectory() as name:
        yield Path(name)


def test_a_file_carries_production(clone: Stack, tmp_path: Path, folder: Path) -> None:
    image = clone.variables["APP_IMAGE"]
    file = folder / "promos.tar.zst"
    with clone.edited(EDITS):
        clone.compose("build", "--quiet", "migrate")
        saved = clone.try_run("scripts/images", "save", str(file))
    assert saved.returncode == 0, saved.stderr
    assert {image, "postgres:17", "redis:8.0", "nginx:1.26"} < set(saved.stdout.split())
    # The others are everybody's.
    run("docker", "image", "rm", image)

    host = replace(clone, folder=tmp_path / "host")
    host.folder.mkdir()
    unpack = 'tar -xf "$1" source.tar --to-stdout | tar -x'
    done = run("bash", "-euo", "pipefail", "-c", unpack, "unpack", str(file), cwd=host.folder)
    assert done.returncode == 0, done.stderr

    damaged = folder / "damaged.tar.zst"
    content = file.read_bytes()
    damaged.write_bytes(content[:5000] + b"?" + content[5001:])
    refused = host.try_run("scripts/images", "load", str(damaged))
    assert (refused.returncode, "damaged.tar.zst is damaged" in refused.stderr) == (1, True)
    Path(f"{damaged}.sha256").write_text(Path(f"{file}.sha256").read_text())
    refused = host.try_run("scripts/images", "load", str(damaged))
    assert "damaged.tar.zst is not what damaged.tar.zst.sha256 says" in refused.stderr
    assert run("docker", "image", "inspect", image).returncode != 0

    (host.folder / "marketplace/health.py").write_text("of the release before\n")
    loaded = host.try_run("scripts/images", "load", str(file), "--source", ".")
    assert loaded.returncode == 0, loaded.stderr
    assert image in loaded.stdout.split()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [damaged.name, f"{damaged.name}.sha256", file.name, f"{file.name}.sha256"]
    )

    assert not (host.folder / ".env").exists()
    assert run("scripts/init-env", cwd=host.folder).returncode == 0
    # There is no registry for this Docker engine, so what runs here was loaded.
    host.compose("up", "--detach", "--no-build", "--wait")
    assert host.http("/healthz") == (200, '{"status": "carried"}')
