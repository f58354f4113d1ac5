"""Commands of the system, run with one clear error."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any

from deploy.ops.errors import OpsError

Done = subprocess.CompletedProcess[str]


def try_run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Done:
    """Run it and keep what it prints; a program that is missing or too slow is an OpsError."""
    if input is None:
        options.setdefault("stdin", subprocess.DEVNULL)
    try:
        return subprocess.run(
            command,
            env=env,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )
    except FileNotFoundError:
        raise OpsError(f"the program {command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise OpsError(f"no answer within {timeout:g} s: {shown(command)}") from None


def run(command: Sequence[str], **options: Any) -> str:
    """What it prints; an OpsError with its last words when it fails."""
    done = try_run(command, **options)
    if done.returncode:
        raise OpsError(failure(command, done))
    return done.stdout


def stream(
    command: Sequence[str],
    *,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run it between two files, whatever their size; an OpsError with its last words. When this is
    interrupted, it is told to end and takes its time for that."""
    try:
        process = subprocess.Popen(
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
        )
    except FileNotFoundError:
        raise OpsError(f"the program {command[0]} is not installed here") from None
    try:
        _, errors = process.communicate()
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    if process.returncode:
        words = errors.decode(errors="replace").strip()
        raise OpsError(f"{shown(command)} failed: {words or f'exit code {process.returncode}'}")


def failure(command: Sequence[str], done: Done) -> str:
    words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
    reason = "\n".join(words) or f"exit code {done.returncode}"
    return f"{shown(command)} failed: {reason}"


def shown(command: Sequence[str]) -> str:
    """As one would type it, shortened."""
    text = shlex.join(command)
    return text if len(text) <= 160 else f"{text[:157]}..."


def become(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Be this command from now on: its output, its signals, its exit code."""
    try:
        os.execvpe(command[0], list(command), dict(os.environ if env is None else env))  # noqa: S606
    except FileNotFoundError:
        raise OpsError(f"the program {command[0]} is not installed here") from None
