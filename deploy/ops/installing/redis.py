"""Redis, spoken to with the standard library alone: who may enter, and what it answers."""

import socket
from contextlib import closing
from typing import Any

Answer = Any


class Refused(Exception):
    """Redis' own words: `WRONGPASS …`, `NOPERM …`."""


def ask(
    host: str, port: int, *commands: list[str], login: tuple[str, str] | None = None
) -> list[Answer]:
    """The answers to these commands, after a login by user and password; OSError, Refused."""
    first = [["AUTH", *login]] if login else []
    with closing(socket.create_connection((host, port), timeout=5)) as connection:
        answers = []
        with connection.makefile("rb") as stream:
            for words in (*first, *commands):
                connection.sendall(_request(words))
                answers.append(_answer(stream))
    return answers[len(first) :]


def _request(words: list[str]) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _answer(stream: Any) -> Answer:
    line: bytes = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("it closed the connection")
    kind, text = line[:1], line[1:-2].decode(errors="replace")
    if kind == b"-":
        raise Refused(text)
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return [_answer(stream) for _ in range(int(text))]
    return text
