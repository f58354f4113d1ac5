"""The file that carries a release, packed and checked; the images themselves need Docker."""

import json
import shutil
from pathlib import Path

import pytest

from deploy.ops import images
from deploy.ops.errors import OpsError

ENDINGS = [
    ".gz",
    pytest.param(".zst", marks=pytest.mark.skipif(not shutil.which("zstd"), reason="no zstd")),
]


def packed(folder: Path, ending: str, **sums: str) -> Path:
    work = folder / "work"
    work.mkdir()
    (work / images.SOURCE).write_text("source")
    (work / images.IMAGES).write_bytes(b"images" * 50_000)
    members = {name: images.sum_of(work / name) for name in (images.SOURCE, images.IMAGES)}
    manifest = {"release": "1-2", "images": {}, "sha256": members | sums}
    (work / images.MANIFEST).write_text(json.dumps(manifest))
    file = folder / f"promos.tar{ending}"
    images.compress(work, file)
    return file


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_was_packed_comes_out_again(tmp_path: Path, ending: str) -> None:
    file = packed(tmp_path, ending)
    out = tmp_path / "out"
    out.mkdir()
    assert images.unpack(file, out)["release"] == "1-2"
    assert (out / images.IMAGES).read_bytes() == b"images" * 50_000
    assert {path.name for path in out.iterdir()} == {
        images.SOURCE,
        images.IMAGES,
        images.MANIFEST,
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, ending: str) -> None:
    file = packed(tmp_path, ending)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(OpsError, match=r"promos\.tar.* is damaged"):
        images.unpack(file, tmp_path)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "promos.tar.gz"
    file.write_text("nonsense")
    with pytest.raises(OpsError, match=r"is damaged or not of scripts/images save"):
        images.unpack(file, tmp_path)


def test_a_member_with_another_sum_is_named(tmp_path: Path) -> None:
    file = packed(tmp_path, ".gz", **{images.IMAGES: "0" * 64})
    with pytest.raises(OpsError, match=r"images\.tar in .* has another sum"):
        images.unpack(file, tmp_path)


def test_a_file_with_another_sum_than_the_one_beside_it_is_named(tmp_path: Path) -> None:
    file = packed(tmp_path, ".gz")
    images.sum_file(file).write_text(f"{'0' * 64}  {file.name}\n")
    with pytest.raises(OpsError, match=r"is not what promos\.tar\.gz\.sha256 says"):
        images.check_sum(file)
