"""The API's schema, from which tests are generated, and what its answers say."""

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator


@cache
def schema() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator().get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    return made


def text_of(response: Any) -> str:
    """All of it, of a streamed one, too."""
    return response.getvalue().decode() if response.streaming else str(response.text)
