"""The API's schema, from which tests are generated."""

from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator


@cache
def schema() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator().get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    return made
