"""What a former secret signed or opens goes on while scripts/rotate-secrets changes it."""

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.db.utils import OperationalError
from django.test import Client
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.tokens import RefreshToken

from marketplace import media
from marketplace.sessions import user_of

FORMER = "a former key of Django's, long enough for a signature"


def sign(token: Any, key: str) -> str:
    signed: str = TokenBackend("HS256", key).encode(token.payload)
    return signed


@pytest.mark.parametrize(("fallbacks", "access", "refresh"), [([FORMER], 200, 200), ([], 401, 401)])
def test_tokens_of_a_former_key_hold_while_it_is_known(
    make_shopper: Callable[..., User],
    settings: Any,
    client: Client,
    fallbacks: list[str],
    access: int,
    refresh: int,
) -> None:
    settings.SECRET_KEY_FALLBACKS = fallbacks
    token = RefreshToken.for_user(make_shopper())
    bearer = f"Bearer {sign(token.access_token, FORMER)}"
    assert client.get("/api/reservations/", headers={"Authorization": bearer}).status_code == access
    answer = client.post("/api/token/refresh/", {"refresh": sign(token, FORMER)})
    assert answer.status_code == refresh


def test_a_session_of_a_former_key_goes_on_under_the_same_id(
    make_shopper: Callable[..., User], settings: Any, client: Client
) -> None:
    """Also for who does not hear of a new one: another request, a WebSocket."""
    present = settings.SECRET_KEY
    settings.SECRET_KEY = FORMER
    client.force_login(make_shopper())
    session = client.cookies["sessionid"].value
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = present, [FORMER]
    assert client.get("/api/reservations/").status_code == 200
    assert client.cookies["sessionid"].value == session
    assert user_of(SessionStore(session)).is_authenticated
    settings.SECRET_KEY_FALLBACKS = []
    assert not user_of(SessionStore(session)).is_authenticated
    assert client.get("/api/reservations/").status_code == 401


def test_a_new_password_ends_a_session_of_a_former_key(
    make_shopper: Callable[..., User], settings: Any, client: Client
) -> None:
    settings.SECRET_KEY_FALLBACKS = [FORMER]
    user = make_shopper()
    client.force_login(user)
    user.set_password("another")
    user.save()
    assert client.get("/api/reservations/").status_code == 401


@pytest.mark.django_db
def test_the_other_password_is_tried_where_the_first_is_refused() -> None:
    parameters = connection.get_connection_params()
    right, settings = parameters["password"], connection.settings_dict
    wrong = parameters | {"password": "wrong"}
    try:
        settings["PASSWORD_FALLBACK"] = right
        connection.get_new_connection(wrong).close()
        settings["PASSWORD_FALLBACK"] = ""
        with (
            pytest.raises(OperationalError, match="password authentication failed"),
            connection.wrap_database_errors,
        ):
            connection.get_new_connection(wrong)
    finally:
        settings["PASSWORD_FALLBACK"] = ""


def test_media_come_back_as_they_were_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, name in ((one, "a/kept"), (two, "b/other")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    archive = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", type("Output", (), {"buffer": archive}))
    media.save(one)
    whole = archive.getvalue()
    monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": io.BytesIO(whole[:600])}))
    with pytest.raises(tarfile.TarError):
        media.load(two)
    assert (two / "b" / "other").exists(), "half an archive takes nothing's place"
    monkeypatch.setattr(sys, "stdin", type("Input", (), {"buffer": io.BytesIO(whole)}))
    media.load(two)
    assert [str(path.relative_to(two)) for path in two.rglob("*")] == ["a", "a/kept"]
