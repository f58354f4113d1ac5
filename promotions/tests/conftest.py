"""Fixtures of the API's tests."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def owned(make_store: Callable[..., Any], make_shopper: Callable[..., Any]) -> tuple[Any, Any]:
    """A store and its owner."""
    owner = make_shopper("owner")
    return make_store(owner=owner), owner
