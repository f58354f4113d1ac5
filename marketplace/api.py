"""What all endpoints share: one error envelope, pagination, constraints as clear messages.

Every error of the API has one form, whatever raised it:
`{"error": {"code": "...", "message": "...", "fields": {"name": ["..."]}}}`, where `fields` is
there for values that are not valid.
"""

import logging
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cache, cached_property
from math import ceil
from typing import Any, TypeVar

from django.apps import apps
from django.core.exceptions import (
    ObjectDoesNotExist,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.core.paginator import Paginator
from django.db import DataError, IntegrityError, OperationalError, transaction
from django.db.models import (
    BaseConstraint,
    CheckConstraint,
    Model,
    ProtectedError,
    Q,
    QuerySet,
    UniqueConstraint,
)
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponsePermanentRedirect,
    JsonResponse,
    UnreadablePostError,
)
from django.template.loader import render_to_string
from django.urls import is_valid_path
from django.utils.text import get_text_list
from django.utils.translation import gettext, gettext_lazy
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.utils import OpenApiResponse
from rest_framework import exceptions, serializers, status, views
from rest_framework.exceptions import APIException
from rest_framework.pagination import PageNumberPagination
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings

from marketplace.exceptions import Refusal

logger = logging.getLogger(__name__)

API = "/api/"
NON_FIELD = str(api_settings.NON_FIELD_ERRORS_KEY)

M = TypeVar("M", bound=Model)


class Conflict(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_detail = gettext_lazy("The request conflicts with what is stored.")
    default_code = "conflict"


class TooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = gettext_lazy("The request is too large.")
    default_code = "too_large"


class LengthRequired(APIException):
    status_code = status.HTTP_411_LENGTH_REQUIRED
    default_detail = gettext_lazy("A request's body needs a Content-Length.")
    default_code = "length_required"


class Unavailable(APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = gettext_lazy("The service is busy. Try again in a moment.")
    default_code = "unavailable"
    wait = 1  # becomes the header Retry-After


# --- The envelope --------------------------------------------------------------------------------
def envelope(code: str, message: str, fields: dict[str, list[str]] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": _encodable(message)}
    if fields is not None:
        error["fields"] = {
            _encodable(name): [*map(_encodable, texts)] for name, texts in fields.items()
        }
    return {"error": error}


def _encodable(text: str) -> str:
    """The text without lone surrogates, which a message may repeat from the request."""
    return text.encode(errors="replace").decode()


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """The response to what a view raised; None makes Django answer 500 through `server_error`."""
    api_exception = _api_exception(exc)
    if api_exception is None:
        return None
    response = views.exception_handler(api_exception, context)
    assert response is not None  # noqa: S101  an APIException always has a response
    response.data = _body(api_exception)
    request = context["request"]
    renderer = getattr(request, "accepted_renderer", None)
    if getattr(renderer, "format", None) not in ("json", "api"):
        # The schema's own renderers know YAML and its page, not errors.
        request.accepted_renderer = JSONRenderer()
        request.accepted_media_type = JSONRenderer.media_type
    return response


def error_response(request: HttpRequest, exc: APIException) -> HttpResponse:
    """What was refused outside REST framework's views: the envelope, or a page for people."""
    wait = getattr(exc, "wait", None)
    headers = {"Retry-After": str(ceil(wait))} if wait else None
    if request.get_preferred_type(["application/json", "text/html"]) == "text/html":
        text = render_to_string("error.html", {"message": exc.detail}, request)
        return HttpResponse(text, status=exc.status_code, headers=headers)
    return JsonResponse(_body(exc), status=exc.status_code, headers=headers)


def _body(exc: APIException) -> dict[str, Any]:
    detail: Any = exc.detail
    if isinstance(exc, exceptions.ValidationError):
        fields: dict[str, list[str]] = {}
        for name, text in _flat(detail):
            fields.setdefault(name or NON_FIELD, []).append(text)
        return envelope("invalid", _summary(fields), fields)
    if isinstance(detail, dict):  # simplejwt's
        return envelope(str(detail["code"]), str(detail["detail"]))
    return envelope(detail.code, str(detail))


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each message with its path, as `eligible_segments.0`."""
    if isinstance(detail, dict):
        for key, value in detail.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(detail, list):
        for value in detail:
            yield from _flat(value, path)
    else:
        yield path, str(detail)


def _summary(fields: dict[str, list[str]]) -> str:
    return " ".join(
        text if name == NON_FIELD else f"{name}: {text}"
        for name, texts in fields.items()
        for text in texts
    )


def _api_exception(exc: Exception) -> APIException | None:
    """The same error as REST framework puts it, None for one that is ours to repair."""
    match exc:
        case APIException():
            return exc
        case Http404() | ObjectDoesNotExist():
            return exceptions.NotFound()
        case DjangoPermissionDenied():
            return exceptions.PermissionDenied()
        case DjangoValidationError():
            return exceptions.ValidationError(serializers.as_serializer_error(exc))
        case ProtectedError():
            return _still_used(exc)
        case IntegrityError():
            return _from_integrity_error(exc)
        case DataError():
            return exceptions.ValidationError(gettext("A value is out of range."))
        case OperationalError():  # a lock not had in time, a deadlock, a database that is away
            logger.exception("The database did not answer")
            return Unavailable()
        case RequestDataTooBig():
            return TooLarge()
        case SuspiciousOperation() | UnreadablePostError():
            return exceptions.ParseError()
    return None


def _still_used(exc: ProtectedError) -> APIException:
    users = sorted({str(row._meta.verbose_name_plural) for row in exc.protected_objects})
    return Conflict(
        gettext("It cannot be deleted while it has %(users)s.")
        % {"users": get_text_list(users, gettext("and"))},
        code="still_used",
    )


# --- Refusals ------------------------------------------------------------------------------------
def refused(exc: Refusal, statuses: Mapping[type[Refusal], int]) -> APIException:
    """What a service refused, as HTTP says it."""
    refusal = APIException(str(exc), code=exc.code)
    refusal.status_code = statuses[type(exc)]
    return refusal


def refusal_responses(
    statuses: Mapping[type[Refusal], int], *errors: type[Refusal]
) -> dict[int, Any]:
    """OpenAPI responses for these errors, each with its docstring."""
    texts: dict[int, list[str]] = {}
    for error in errors:
        texts.setdefault(statuses[error], []).append(f"`{error.code}`: {error.__doc__}")
    return {code: OpenApiResponse(description="\n\n".join(lines)) for code, lines in texts.items()}


# --- Constraints ---------------------------------------------------------------------------------
def constraint_field(model: type[Model], constraint: BaseConstraint) -> str:
    """The one field that a constraint's message is about, or the key of messages about several."""
    if isinstance(constraint, UniqueConstraint):
        names = set(constraint.fields)
    elif isinstance(constraint, CheckConstraint) and isinstance(constraint.condition, Q):
        names = set(constraint.condition.referenced_base_fields)
    else:
        names = set()
    names = {name for name in names if model._meta.get_field(name).editable}
    return names.pop() if len(names) == 1 else NON_FIELD


def violated(exc: Exception) -> tuple[str | None, str | None, str | None]:
    """The SQLSTATE, the table and the constraint of a database error, as PostgreSQL names them."""
    diag = getattr(exc.__cause__, "diag", None)
    return (
        getattr(diag, "sqlstate", None),
        getattr(diag, "table_name", None),
        getattr(diag, "constraint_name", None),
    )


@cache
def _constraints() -> dict[str, tuple[type[Model], BaseConstraint]]:
    return {
        constraint.name: (model, constraint)
        for model in apps.get_models()
        for constraint in model._meta.constraints
    }


def _from_integrity_error(exc: IntegrityError) -> APIException | None:
    """The message that validation would have given, had no other request come between."""
    sqlstate, _, name = violated(exc)
    if name in _constraints():
        model, constraint = _constraints()[name]
        return exceptions.ValidationError(
            {constraint_field(model, constraint): [constraint.get_violation_error_message()]}
        )
    if sqlstate == "23503":  # foreign key
        return Conflict(
            gettext("It refers to something that is gone, or something still refers to it."),
            code="still_used",
        )
    if sqlstate == "23505":  # unique
        return Conflict(gettext("It exists already."), code="exists")
    return None


class ConstrainedSerializer(serializers.ModelSerializer[M]):
    """Checks the row as it would be against every constraint of its model, and writes it.

    An update writes the columns that were given and no others: tasks and triggers own the rest.
    """

    def merged(self, attrs: dict[str, Any]) -> M:
        """The row as it would be."""
        model: type[M] = self.Meta.model
        row = copy(self.instance) if self.instance else model()
        for name, value in attrs.items():
            setattr(row, name, value)
        return row

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        row = self.merged(attrs)
        model = type(row)
        errors: dict[str, list[str]] = {}
        for constraint in model._meta.constraints:
            try:
                constraint.validate(model, row)
            except DjangoValidationError as error:
                field = constraint_field(model, constraint)
                errors.setdefault(field, []).extend(error.messages)
        if errors:
            raise serializers.ValidationError(errors)
        return attrs

    def save(self, **kwargs: Any) -> M:
        with transaction.atomic():
            return super().save(**kwargs)

    def update(self, instance: M, validated_data: dict[str, Any]) -> M:
        rows = type(instance)._default_manager.filter(pk=instance.pk)
        if validated_data and not rows.update(**validated_data):
            raise exceptions.NotFound
        for name, value in validated_data.items():
            setattr(instance, name, value)
        return instance


def key_field(
    queryset: "QuerySet[Any]", **kwargs: Any
) -> "serializers.PrimaryKeyRelatedField[Any]":
    """A reference by number: typed in, since a list to choose from would show every row."""
    return serializers.PrimaryKeyRelatedField(
        queryset=queryset,
        pk_field=serializers.IntegerField(),
        style={"base_template": "input.html", "input_type": "number"},
        **kwargs,
    )


# --- Pages ---------------------------------------------------------------------------------------
class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts and shows the first 10,000 rows: neither counting nor skipping reads a whole table."""

    LIMIT = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.LIMIT].count())


class Pagination(PageNumberPagination):
    django_paginator_class = BoundedPaginator
    page_size = 20
    page_size_query_param = "page_size"
    max_page_size = 100
    page_size_query_description = gettext_lazy("Rows a page, at most 100.")  # type: ignore[assignment]
    invalid_page_message = gettext_lazy("There is no such page.")  # type: ignore[assignment]

    def get_page_size(self, request: Request) -> int:
        text = request.query_params.get(self.page_size_query_param)
        if not text:
            return self.page_size
        if not (text.isascii() and text.isdigit() and int(text[:9])):
            raise exceptions.ValidationError(
                {self.page_size_query_param: [gettext("Use a whole number from 1 to 100.")]}
            )
        return min(int(text[:9]), self.max_page_size)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            parameter["schema"]["minimum"] = 1
        return parameters

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        page = super().get_paginated_response_schema(schema)
        page["properties"]["count"]["description"] = (
            "How many rows there are in all pages; counting stops at 10,000, and so do the pages."
        )
        for name, number in (("next", 3), ("previous", 1)):
            page["properties"][name]["example"] = f"http://localhost:8000/api/…/?page={number}"
        return page


# --- Errors outside the views --------------------------------------------------------------------
def is_api(request: HttpRequest) -> bool:
    return request.path.startswith(API)


@csrf_exempt
def unknown_address(request: HttpRequest, *args: Any) -> HttpResponse:
    """404 for what no pattern under `/api/` matches, and the way to it when a slash is missing."""
    with_slash = f"{request.path}/"
    if not request.path.endswith("/") and _known(with_slash):
        if request.method in ("GET", "HEAD"):
            return HttpResponsePermanentRedirect(request.get_full_path(force_append_slash=True))
        message = gettext("Addresses end with a slash: %(address)s") % {"address": with_slash}
    else:
        message = gettext("There is no such address.")
    return JsonResponse(envelope("not_found", message), status=404)


unknown_address.should_append_slash = False  # type: ignore[attr-defined]


def _known(path: str) -> bool:
    match = is_valid_path(path)
    return bool(match) and match.func is not unknown_address  # type: ignore[union-attr]


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not is_api(request):
        return defaults.bad_request(request, exception)
    return JsonResponse(envelope("bad_request", gettext("Malformed request.")), status=400)


def server_error(request: HttpRequest) -> HttpResponse:
    if not is_api(request):
        return defaults.server_error(request)
    message = gettext("Something went wrong on our side. It has been logged.")
    return JsonResponse(envelope("server_error", message), status=500)


# --- OpenAPI -------------------------------------------------------------------------------------
ERROR_SCHEMA = {
    "type": "object",
    "description": "The form of every error.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "For programs; it does not change."},
                "message": {"type": "string", "description": "For people, in their language."},
                "fields": {
                    "type": "object",
                    "description": "For values that are not valid: what is wrong with each. "
                    f"Under `{NON_FIELD}` stands what is wrong with several together.",
                    "additionalProperties": {"type": "array", "items": {"type": "string"}},
                },
            },
        }
    },
    "example": {
        "error": {
            "code": "invalid",
            "message": "quantity: The quantity must be at least 1.",
            "fields": {"quantity": ["The quantity must be at least 1."]},
        }
    },
}


def document_errors(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """A spectacular hook: the envelope is the body of each operation's error responses."""
    result["components"]["schemas"]["Error"] = ERROR_SCHEMA
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            if "requestBody" in operation or _in_query(operation):
                responses.setdefault("400", {"description": "A value is not valid."})
            if {} not in operation.get("security", [{}]):  # signing in is not optional
                if method != "get":
                    responses.setdefault("403", {"description": "It is not the caller's to do."})
                responses.setdefault(
                    "401",
                    {"description": "The caller is not signed in, or the token is not valid."},
                )
            if "{" in path:
                responses.setdefault("404", {"description": "There is no such thing."})
            responses["default"] = {"description": "Any other error."}
            for code, response in responses.items():
                if not code.startswith("2"):
                    response["content"] = content
    return result


def _in_query(operation: dict[str, Any]) -> bool:
    return any(parameter["in"] == "query" for parameter in operation.get("parameters", []))
