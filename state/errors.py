"""What the state refuses."""

from __future__ import annotations

from typing import Any


class StaleToken(Exception):
    """The task was given to another worker, or ended, since this token was handed out: write nothing, stop."""


class IdempotencyConflict(Exception):
    """The idempotency key was used before, with another body."""


class NoSuchJob(LookupError):
    """The job does not exist, or was deleted a moment ago."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job '{job_id}'")


class NotRetryable(Exception):
    """Only a failed or cancelled job can be retried."""


class NotDeletable(Exception):
    """The job is not over, or what it made is in use."""


def error_of(code: str, message: str, hint: str = "", field: str = "", **more: Any) -> dict[str, Any]:
    """The shape of ``Job.error`` and ``Task.error``."""
    return {"code": code, "message": message, "hint": hint, "field": field, **more}
