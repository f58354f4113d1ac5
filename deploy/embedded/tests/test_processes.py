import subprocess
import sys
from pathlib import Path

from deploy.embedded import processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def spawn(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEP, env={"EMBEDDED_DIR": str(folder), **variables}, cwd=folder)


def test_leftovers_are_told_from_other_processes(tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    ours = spawn(tmp_path, **{processes.MARK: "1"})
    strangers = [spawn(tmp_path), spawn(other, **{processes.MARK: "1"})]
    try:
        assert processes.of_folder(tmp_path) == [ours.pid]
        assert processes.stop(tmp_path) == 1
        assert not processes.alive(ours.pid)
        assert all(stranger.poll() is None for stranger in strangers)
    finally:
        for process in (ours, *strangers):
            process.kill()
            process.wait()


def test_what_does_not_listen_is_killed(tmp_path: Path):
    script = "import signal, time; signal.signal(15, 1); print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={"EMBEDDED_DIR": str(tmp_path), processes.MARK: "1"},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes.stop(tmp_path, grace=0.2) == 1
        assert process.wait(10) == -9
