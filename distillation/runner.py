"""Runs one stage: reads the request, calls the stage, turns what went wrong into a clear error."""

from __future__ import annotations

import importlib
import resource
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

from distillation.errors import DatasetError
from distillation.protocol import INTERRUPTED, Interrupted, Reporter, Request, Stage, StageError, write_manifest
from models.errors import ModelError, full_disk

DONE, FAILED = 0, 1


def run_stage(request: Request[Any], report: Reporter) -> dict[str, Any]:
    """Run a stage to its manifest and return its summary.

    Raises:
        StageError: the stage failed.
        Interrupted: it was asked to stop and has saved its work.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    stage: Stage = importlib.import_module(f"distillation.stages.{request.stage}").run
    summary = stage(request, report)
    if report.leads:
        shutil.rmtree(request.out / "checkpoints", ignore_errors=True)
        write_manifest(request, summary, time.monotonic() - began)
    return summary


def explain(error: BaseException) -> StageError:
    """The stage error that a user sees for any exception."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, ModelError | DatasetError):
        return StageError(error.code, error.message, error.hint, getattr(error, "field", ""))
    if full := full_disk(error):
        name = getattr(full, "filename", None) or "a file"
        return StageError("disk_full", f"no space left while writing {name}", "free disk, retry")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return StageError(
            "out_of_memory",
            f"memory ran out: {str(error).splitlines()[0] if str(error) else 'no details'}",
            "lower training.batch_size or data.generator.batch_size, or use a larger machine",
        )
    last = traceback.extract_tb(error.__traceback__)[-1:] or None
    place = f" at {Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    return StageError(
        "internal", f"{type(error).__name__}: {error}{place}", "this is a defect; the job's log has the traceback"
    )


def run_child(request_file: Path, report: Reporter) -> int:
    """The body of the child process; its exit status."""
    allow_many_files()
    try:
        report.done(run_stage(Request.read(request_file), report))
    except Interrupted:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        report.error(explain(error))
        return FAILED
    return DONE


def allow_many_files() -> None:
    """Let this process open as many files as the system grants: training keeps three of every shard mapped."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
