"""The system's own HTTP API, used as a shopper would use it."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

# A proxy of the caller's has nothing to do with 127.0.0.1.
_opener = build_opener(ProxyHandler({}))


@dataclass
class Api:
    base: str
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the parsed answer; 0 when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        request = Request(  # noqa: S310  our own address
            self.base + path, data, headers | self.headers, method=method
        )
        try:
            with _opener.open(request, timeout=30) as response:
                return response.status, _parse(response.read())
        except HTTPError as error:
            with error:
                return error.code, _parse(error.read())
        except (URLError, OSError):
            return 0, None

    def login(self, username: str, password: str) -> int:
        """Use this user's token from now on; return the status."""
        status, answer = self.call(
            "POST", "/api/token/", {"username": username, "password": password}
        )
        if status == 200:
            self.headers["Authorization"] = f"Bearer {answer['access']}"
        return status


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")[:200]
