"""Every error leaves as problem details (RFC 9457), with all field errors at once, each with a JSON pointer."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException

from distillation.protocol import StageError
from models.errors import full_disk
from state.errors import IdempotencyConflict, NoSuchJob, NotDeletable, NotRetryable

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One wrong field."""

    pointer: str = Field(description="JSON pointer (RFC 6901) to the field; empty: the whole document.")
    message: str = Field(description="What is wrong and what would be right.")
    code: str = Field("invalid", description="Machine-readable reason.")
    location: str = Field("body", alias="in", description="`body`, `query`, `path` or `header`.")


class ProblemDetails(BaseModel):
    """The body of every answer with a status of 400 or more."""

    type: str = Field(examples=["urn:stillroom:problem:invalid_request"])
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = Field(default_factory=list)


@dataclass(eq=False)
class Problem(Exception):
    """An error with its HTTP status.

    Args:
        code: machine-readable reason, stable over releases.
        detail: what happened and what to do.
    """

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        content = ProblemDetails(
            type=f"urn:stillroom:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            code=self.code,
            errors=list(self.errors),
        )
        return JSONResponse(
            content.model_dump(by_alias=True), self.status, headers=dict(self.headers), media_type=MEDIA_TYPE
        )


def field_error(pointer: str, message: str, code: str = "invalid", location: str = "body") -> FieldError:
    return FieldError.model_validate({"pointer": pointer, "message": message, "code": code, "in": location})


def not_found(what: str, identity: str) -> Problem:
    return Problem(404, "not_found", f"there is no {what} '{identity}'")


def json_pointer(path: Sequence[str | int]) -> str:
    """``("domain", "a/b", 0)`` becomes ``/domain/a~1b/0``. A wrong *key* of an object points at its entry."""
    parts = [str(part) for part in path if part != "[key]"]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def validation_problem(errors: Sequence[Mapping[str, Any]], more: Sequence[FieldError] = ()) -> Problem:
    """All errors of a request: as pydantic lists them, and those that a look at the rest has found."""
    found: list[FieldError] = []
    for error in errors:
        location, *path = error["loc"]
        if error["type"] == "json_invalid":
            path = []
        message = str(error["msg"]).removeprefix("Value error, ")
        found.append(field_error(json_pointer(path), message, str(error["type"]), str(location)))
    found += more
    count = "1 field is" if len(found) == 1 else f"{len(found)} fields are"
    return Problem(422, "invalid_request", f"{count} not valid: {found[0].message}" if found else "not valid", found)


HANDLED: tuple[type[Exception], ...] = (
    Problem,
    RequestValidationError,
    HTTPException,
    IdempotencyConflict,
    NoSuchJob,
    NotDeletable,
    NotRetryable,
    StageError,
    OperationalError,
    DataError,
    OSError,
    Exception,
)
HTTP_CODES = {401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def problem_of(error: Exception) -> Problem:
    """The problem that tells the client of ``error``; unknown errors tell nothing but that they happened."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return validation_problem(error.errors())
        case HTTPException():
            code = HTTP_CODES.get(error.status_code, "http_error")
            return Problem(error.status_code, code, str(error.detail), headers=error.headers or {})
        case IdempotencyConflict():
            wrong = field_error("/idempotency-key", str(error), "idempotency_mismatch", "header")
            return Problem(422, "idempotency_mismatch", str(error), [wrong])
        case NoSuchJob():
            return Problem(404, "not_found", str(error))
        case NotDeletable() | NotRetryable():
            return Problem(409, "conflict", str(error))
        case StageError():
            status = 507 if error.code == "disk_full" else 422
            detail = f"{error.message}. {error.hint}" if error.hint else error.message
            pointer = json_pointer(error.field.split(".")) if error.field else ""
            return Problem(status, error.code, detail, [field_error(pointer, error.message, error.code)])
        case OperationalError() if _is_disk_full(error):
            return Problem(507, "disk_full", "the database's disk is full; free some space and try again")
        case OperationalError():
            detail = "the database cannot be reached; try again"
            return Problem(503, "unavailable", detail, headers={"Retry-After": "5"})
        case DataError():
            detail = (
                "the database cannot hold a value of this request: a text with a NUL character, or a number too large"
            )
            return Problem(422, "invalid_request", detail)
        case OSError() if full_disk(error):
            return Problem(507, "disk_full", "the server's disk is full; free some space and try again")
    return Problem(500, "internal", "an unexpected error happened; the server's log has it")


def _is_disk_full(error: OperationalError) -> bool:
    """Whether SQLite or PostgreSQL (SQLSTATE 53100) says so."""
    return (
        getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        or getattr(error.orig, "sqlstate", None) == "53100"
    )


def install(app: FastAPI) -> None:
    """Let ``app`` answer every exception with problem details."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        if problem.status >= 500:
            log.error("%s %s: %s", request.method, request.url.path, problem.detail, exc_info=error)
        return problem.response()

    for kind in HANDLED:
        app.add_exception_handler(kind, answer)
