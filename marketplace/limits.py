"""What a request may hold; the length of its headers is gunicorn's to bound."""

from collections.abc import Callable
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import SuspiciousMultipartForm
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest, HttpResponse

from marketplace.api import LengthRequired, TooLarge, bad_request, error_response

#: What psycopg2 says of it.
NUL = "A string literal cannot contain NUL (0x00) characters."


class LimitsMiddleware:
    """Refuses a body by what its header says, before anybody reads it into memory.

    A body without Content-Length would be read as an empty one: WSGI has no end for it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            length = str(settings.MAX_BODY_BYTES + 1)
        if int(length) > settings.MAX_BODY_BYTES:
            return error_response(request, TooLarge())
        if "HTTP_TRANSFER_ENCODING" in request.META:
            return error_response(request, LengthRequired())
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """A NUL, which PostgreSQL does not take, is no mistake of ours where none looked for it."""
        if isinstance(exception, ValueError) and str(exception) == NUL:
            return bad_request(request, exception)
        return None


class RefuseFiles(FileUploadHandler):
    """No page here takes a file, so none is kept, in memory or on disk."""

    def new_file(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SuspiciousMultipartForm("Files are not accepted.")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None: ...

    def file_complete(self, file_size: int) -> None: ...
