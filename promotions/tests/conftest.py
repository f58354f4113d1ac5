"""Fixtures of the API's tests: callers with real tokens."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken


@pytest.fixture
def client_of() -> Callable[..., APIClient]:
    """The client of a user, or of nobody."""

    def make(user: User | None = None) -> APIClient:
        client = APIClient()
        if user:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
        return client

    return make


@pytest.fixture
def owned(make_store: Callable[..., Any], make_shopper: Callable[..., Any]) -> tuple[Any, Any]:
    """A store and its owner."""
    owner = make_shopper("owner")
    return make_store(owner=owner), owner
