"""From the way a stage's process ended to an error that its user can act on."""

from __future__ import annotations

import signal
from typing import Any

from models.errors import full_disk
from state.errors import error_of
from workers.workspace import StageFailed

RETRYABLE = frozenset({"hub_unreachable", "language_model_failed", "disk_full", "internal"})
"""Codes for which another try, perhaps on another machine, may do better."""


def failure_of(stage: str, status: int, error: dict[str, Any] | None, stderr: list[str]) -> StageFailed:
    """What to record for a child that ended with ``status``.

    Args:
        error: the error event it sent, if any.
        stderr: the last lines of its standard error, kept with errors nobody foresaw.
    """
    if error is not None:
        told = error_of(error["code"], error["message"], error.get("hint") or "", error.get("field") or "")
        if error["code"] == "internal":
            told["stderr"] = stderr
        return StageFailed(told, error["code"] in RETRYABLE)
    if status == -signal.SIGKILL:
        message = f"The process of stage {stage} was killed by the system, most often because memory ran out."
        hint = "Lower training.batch_size or data.generator.batch_size, or give the worker more memory."
        return StageFailed(error_of("out_of_memory", message, hint, stderr=stderr), retryable=True)
    if status < 0:
        message = f"The process of stage {stage} died of signal {-status} ({signal.strsignal(-status)})."
    elif status == 0:
        message = f"The process of stage {stage} ended without saying that it was done."
    else:
        message = f"The process of stage {stage} ended with status {status} and no word of explanation."
    hint = "The last lines it wrote are in `stderr`; the worker keeps its whole log in stderr.log."
    return StageFailed(error_of("internal", message, hint, stderr=stderr), retryable=True)


def failure_of_exception(stage: str, error: Exception) -> StageFailed:
    """What to record for an exception in the supervisor itself."""
    if isinstance(error, StageFailed):
        return error
    if full_disk(error):
        message = f"No space left on the worker's disk or the blob store in stage {stage}."
        return StageFailed(error_of("disk_full", message, "Free some space, then retry the job."), retryable=True)
    message = f"The worker failed in stage {stage}: {type(error).__name__}: {error}"
    return StageFailed(error_of("internal", message, "The worker's log has the details."), retryable=True)
