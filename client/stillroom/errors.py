"""What can go wrong between this machine and the service.

StillroomError
├── Unreachable       no answer: refused, timed out, or the connection broke for good
├── NotStillroom      something else answered
├── Corrupted         a file's bytes are not the ones the service promised
├── JobFailed         a job that was waited for ended as failed or cancelled
├── BadInput          found before anything was sent: a file that cannot be read, options that clash
└── ApiError          the service answered with problem details (RFC 9457)
    ├── Invalid       422, 400: what was sent is not valid; `fields` says where
    ├── Unauthorized  401, 403
    ├── NotFound      404
    └── Conflict      409, 412: not possible in the present state
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from stillroom.schemas import Job


class StillroomError(Exception):
    """Base of all errors of this package."""


class Unreachable(StillroomError):
    """The service gave no answer."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"cannot reach {url}: {reason}")


class NotStillroom(StillroomError):
    """What answered is another server."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(f"the answer of {url} is not Stillroom's; is --url or STILLROOM_URL right?")


class Corrupted(StillroomError):
    """A downloaded file does not have the promised sha256."""

    def __init__(self, name: str, expected: str, actual: str) -> None:
        self.name, self.expected, self.actual = name, expected, actual
        super().__init__(f"{name}: sha256 is {actual}, expected {expected}; the file was thrown away, try again")


class JobFailed(StillroomError):
    """The job ended without an encoder; `job` is its last state."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = f": {job['error']['message']}" if job["error"] else ""
        super().__init__(f"{job['id']} {job['status']}{reason}")


class BadInput(StillroomError):
    """Something given on this side is wrong; nothing was sent."""


@dataclass(frozen=True)
class FieldError:
    """One problem of one field; `field` is a dotted path such as `domain.classes.3.name`."""

    field: str
    problem: str


class ApiError(StillroomError):
    """The service refused; `problem` holds its problem details."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status, self.problem = status, problem
        self.code = str(problem.get("code") or problem.get("type") or status)
        self.fields = field_errors(problem)
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP status {status}"))


class Invalid(ApiError):
    """The request is not valid."""


class Unauthorized(ApiError):
    """The API key is missing, or may not do this."""


class NotFound(ApiError):
    """There is no such thing."""


class Conflict(ApiError):
    """Not possible in the present state, for example cancelling a job that has ended."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def field_errors(problem: dict[str, Any]) -> list[FieldError]:
    """The `errors` of problem details: each has a JSON pointer (`/recipe/domain/classes/3`) and a message."""
    found = []
    for item in problem.get("errors") or []:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in str(item.get("pointer", "")).split("/")[1:]]
        if parts[:1] == ["recipe"]:  # the user wrote the recipe, not the envelope it travels in
            parts = parts[1:]
        where = "" if item.get("in", "body") == "body" else f" ({item['in']})"
        found.append(FieldError((".".join(parts) or "(whole)") + where, str(item.get("message") or "is not valid")))
    return found


def error_of(response: httpx.Response) -> ApiError:
    """The error a response stands for. Its body must have been read."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):  # a proxy's page, not our problem details
        said = f"HTTP status {response.status_code}: {' '.join(response.text.split())[:200]}"
        problem = {"title": response.reason_phrase, "detail": said.removesuffix(": ")}
    return BY_STATUS.get(response.status_code, ApiError)(response.status_code, problem)
