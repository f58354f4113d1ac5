"""The deployment's Redis, as `operator`, who may do everything in it."""

import hashlib
import os
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from deploy.ops import shell
from deploy.ops.errors import NotRunning, OpsError

#: Bytes from a snapshot's last code to its end; of the mark that follows it on the way.
RDB_END, RDB_MARK = 9, 40
#: Run where its data lie, while it is stopped: standard input becomes all that it holds. With the
#: append-only file on, Redis reads no dump.rdb: the snapshot is that file's first part then.
REPLACE = """
set -eu
umask 077
rm -rf restoring
mkdir -p restoring/appendonlydir
cat >restoring/dump.rdb
ln restoring/dump.rdb restoring/appendonlydir/appendonly.aof.1.base.rdb
echo 'file appendonly.aof.1.base.rdb seq 1 type b' >restoring/appendonlydir/appendonly.aof.manifest
rm -rf appendonlydir dump.rdb
mv restoring/appendonlydir restoring/dump.rdb .
rmdir restoring
"""


class Redis(ABC):
    @abstractmethod
    def call(self, *words: str) -> str:
        """What it answers; an OpsError when that is an error. A command line may show the words."""

    @abstractmethod
    def save(self, file: IO[bytes]) -> None:
        """A snapshot of all that it holds, as it is now, into a file that can also be read."""

    @abstractmethod
    def replace(self, file: Path) -> None:
        """Stop it, make the snapshot all that it holds, and start it."""

    def set_passwords(self, user: str, passwords: Sequence[str]) -> None:
        """The user's, any of which lets in, also after the server's next start. Who is in stays."""
        hashes = [hashlib.sha256(password.encode()).hexdigest() for password in passwords]
        self.call("ACL", "SETUSER", user, "resetpass", *(f"#{hash}" for hash in hashes))
        self.keep_passwords(hashes)

    def allow(self, user: str, rules: str) -> None:
        """What these rules (compose/redis/application.rules) allow, beside what the user may
        already; what they take away goes at the server's next start."""
        words = " ".join(line.partition("#")[0] for line in rules.splitlines()).split()
        self.call("ACL", "SETUSER", user, *(word for word in words if word.startswith("+")))

    @abstractmethod
    def keep_passwords(self, hashes: Sequence[str]) -> None:
        """See to it that they outlive the server's next start."""

    def version(self) -> str:
        """`redis 8.0.1` or `valkey 9.1.2`."""
        info = dict(
            line.split(":", 1) for line in self.call("INFO", "server").splitlines() if ":" in line
        )
        if "valkey_version" in info:
            return f"valkey {info['valkey_version']}"
        return f"redis {info['redis_version']}"

    def memory(self) -> int:
        """Bytes of its data."""
        for line in self.call("INFO", "memory").splitlines():
            if line.startswith("used_memory:"):
                return int(line.partition(":")[2])
        return 0

    def check(self, file: Path) -> None:
        """Raise an OpsError unless the snapshot is whole."""
        with file.open("rb") as snapshot:
            head = snapshot.read(9)
            snapshot.seek(max(file.stat().st_size - RDB_END, 0))
            tail = snapshot.read(1)
        if not head.startswith((b"REDIS", b"VALKEY")) or tail != b"\xff":
            raise OpsError(f"{file.name} is no whole snapshot of Redis")


class ComposeRedis(Redis):
    """By the container's redis-cli, which is the operator's."""

    def __init__(self, deployment: Any) -> None:
        self.deployment = deployment

    def _stream(self, command: Sequence[str], **files: IO[bytes]) -> None:
        line = self.deployment.command("exec", "-T", "redis", *command)
        shell.stream(line, env=self.deployment.environment(), **files)

    def call(self, *words: str) -> str:
        line = self.deployment.command("exec", "-T", "redis", "redis-cli", "-e", *words)
        answer: str = shell.run(line, env=self.deployment.environment())
        return answer.strip()

    def save(self, file: IO[bytes]) -> None:
        self._stream(["redis-cli", "--rdb", "-"], stdout=file)
        # Into a pipe it writes the mark after the end, too.
        file.seek(-RDB_END, os.SEEK_END)
        if file.read(1) != b"\xff":
            file.seek(-RDB_MARK, os.SEEK_END)
            file.truncate()

    def keep_passwords(self, hashes: Sequence[str]) -> None:
        """The container sets the user anew at each start, from variables that stay what they are
        until it is made anew."""
        self._stream(["/opt/flash-promos/users", "keep", *hashes])

    def check(self, file: Path) -> None:
        super().check(file)
        with file.open("rb") as snapshot:
            self._stream(["redis-check-rdb", "/dev/stdin"], stdin=snapshot)

    def replace(self, file: Path) -> None:
        self.deployment.stop("redis")
        try:
            line = self.deployment.command(
                *("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "--workdir", "/data"),
                *("redis", "-c", REPLACE),
            )
            with file.open("rb") as snapshot:
                shell.stream(line, env=self.deployment.environment(), stdin=snapshot)
        finally:
            self.deployment.start("redis")


class Server(Protocol):
    """Where one that is reached over the network keeps its data, and how it is run."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def check(self, file: Path) -> None:
        """Of a snapshot, by the server's own checker."""

    def keep_users(self, redis: Redis) -> None:
        """As they are now, for its next start."""

    def enter(self) -> list[str]:
        """What stands before a command that may write to the folder of its data."""


class NetworkRedis(Redis):
    def __init__(self, host: str, port: int, password: str, server: Server) -> None:
        self.address = host, port
        self.password = password
        self.server = server

    def call(self, *words: str) -> str:
        with Connection(self.address, self.password) as connection:
            return text_of(connection.call(*words))

    def save(self, file: IO[bytes]) -> None:
        with Connection(self.address, self.password) as connection:
            connection.copy_snapshot(file)

    def check(self, file: Path) -> None:
        super().check(file)
        self.server.check(file)

    def allow(self, user: str, rules: str) -> None:
        super().allow(user, rules)
        self.server.keep_users(self)

    def keep_passwords(self, hashes: Sequence[str]) -> None:
        self.server.keep_users(self)

    def replace(self, file: Path) -> None:
        folder = self.call("CONFIG", "GET", "dir").splitlines()[1]
        self.server.stop()
        try:
            with file.open("rb") as snapshot:
                line = [*self.server.enter(), "env", "--chdir", folder, "sh", "-c", REPLACE]
                shell.stream(line, stdin=snapshot)
        finally:
            self.server.start()


class Connection:
    """Redis' protocol (RESP 2), as much of it as is needed here."""

    TIMEOUT = 60

    def __init__(
        self, address: tuple[str, int], password: str, user: str = "operator", wait: float = TIMEOUT
    ) -> None:
        """Without a password nobody logs in; `wait`: seconds for each answer."""
        try:
            self.socket = socket.create_connection(address, timeout=wait)
        except OSError as error:
            raise NotRunning(f"no Redis answers at {address[0]}:{address[1]}: {error}") from error
        self.input = self.socket.makefile("rb")
        if password:
            try:
                self.call("AUTH", user, password)
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.input.close()
        self.socket.close()

    def send(self, *words: str) -> None:
        pieces = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word.encode()
            pieces.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.socket.sendall(b"".join(pieces))

    def call(self, *words: str) -> Any:
        self.send(*words)
        return self.receive()

    def line(self) -> bytes:
        line = self.input.readline()
        if not line:
            raise OpsError("Redis closed the connection")
        return line.rstrip(b"\r\n")

    def receive(self) -> Any:
        line = self.line()
        kind, rest = line[:1], line[1:].decode(errors="replace")
        if kind == b"-":
            raise OpsError(f"Redis answers: {rest}")
        if kind == b"*":
            return [self.receive() for _ in range(int(rest))]
        if kind == b"$" and int(rest) >= 0:
            data = self.input.read(int(rest) + 2)[:-2]
            return data.decode(errors="replace")
        return "" if kind == b"$" else rest

    def copy_snapshot(self, file: IO[bytes]) -> None:
        """As a replica gets it, which leaves nothing on the server's disk."""
        for setting in (("capa", "eof"), ("rdb-only", "1")):
            self.call("REPLCONF", *setting)
        self.send("SYNC")
        while not (line := self.line()):  # an empty one while the snapshot is made
            pass
        if line.startswith(b"-"):
            raise OpsError(f"Redis gives no snapshot: {line[1:].decode()}")
        if line.startswith(b"$EOF:"):
            self._copy_until(line[5:], file)
        else:
            self._copy(int(line[1:]), file)

    def _copy(self, length: int, file: IO[bytes]) -> None:
        while length:
            block = self.input.read(min(length, 2**20))
            if not block:
                raise OpsError("Redis ended within its snapshot")
            file.write(block)
            length -= len(block)

    def _copy_until(self, mark: bytes, file: IO[bytes]) -> None:
        held = b""
        while not held.endswith(mark):
            block = self.input.read1(2**20)
            if not block:
                raise OpsError("Redis ended within its snapshot")
            held += block
            file.write(held[: -len(mark)])
            held = held[-len(mark) :]


def text_of(answer: Any) -> str:
    if isinstance(answer, list):
        return "\n".join(map(text_of, answer))
    return str(answer)


def check_with(program: str, name: str, file: Path) -> None:
    """By the server's program itself, which is the checker when it is called so."""
    done = subprocess.run(
        [name, os.fspath(file)], executable=program, capture_output=True, text=True
    )
    if done.returncode:
        words = done.stdout.strip().splitlines()[-1:]
        raise OpsError(f"{file.name} is no whole snapshot of Redis: {' '.join(words)}")
