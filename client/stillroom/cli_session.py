"""What all commands share: the connection, the two ways to print, and exit codes for every error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from stillroom.client import Stillroom
from stillroom.errors import (
    ApiError,
    BadInput,
    Conflict,
    Invalid,
    JobFailed,
    StillroomError,
    Unauthorized,
    Unreachable,
)
from stillroom.rendering import error_view, field_table

OK, JOB_FAILED, WRONG_INPUT, UNREACHABLE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 the job failed or was cancelled; 2 wrong usage, or an invalid recipe, data set or image; "
    "3 the service cannot be reached; 4 not found, a conflict, or another error of the service; 130 interrupted."
)
PIPE_WIDTH = 200  # no terminal, no need to break lines

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, job_...", show_default=False)]


@dataclass(frozen=True)
class Connection:
    """Where the service is; set by the options before the command."""

    url: str
    api_key: str | None


@dataclass(frozen=True)
class Session:
    """One run of one command."""

    service: Stillroom
    json: bool
    out: Console
    err: Console

    def show(self, content: Any, view: Callable[[], RenderableType]) -> None:
        """The result, once: as JSON, or as something for people."""
        if self.json:
            print_json(content)
        else:
            self.out.print(view())

    def say(self, text: str) -> None:
        """A remark beside the result, never part of it."""
        self.err.print(text, markup=False, highlight=False, soft_wrap=True)

    def encoder_id(self, identity: str) -> str:
        """The id of an encoder, given its own or that of the job which made it."""
        if not identity.startswith("job_"):
            return identity
        job = self.service.job(identity)
        if job["encoder_id"] is None:
            detail = f"{identity} has no encoder: it is {job['status']}"
            raise Conflict(409, {"title": "Conflict", "code": "no_encoder", "detail": detail})
        return job["encoder_id"]


def print_json(content: Any, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(content, indent=indent) + "\n")
    sys.stdout.flush()


def make_console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


@contextmanager
def open_session(context: typer.Context, as_json: bool, json_lines: bool = False) -> Iterator[Session]:
    """A session whose errors become a message on stderr (with --json also an object on stdout) and an exit code.

    Args:
        json_lines: the command prints one object on each line, so an error is one line too.
    """
    connection = context.find_object(Connection)
    if connection is None:
        raise RuntimeError("the connection is set before any command runs")
    out, err = make_console(), make_console(stderr=True)
    try:
        with Stillroom(connection.url, connection.api_key) as service:
            yield Session(service, as_json, out, err)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # `stillroom jobs | head`: the reader has had enough
        sys.stderr.close()
        raise typer.Exit(OK) from None
    except (StillroomError, OSError) as error:
        if as_json:
            print_json({"error": error_object(error)}, None if json_lines else 2)
        explain(err, error)
        raise typer.Exit(exit_code(error)) from None


def exit_code(error: Exception) -> int:
    match error:
        case JobFailed():
            return JOB_FAILED
        case Invalid() | BadInput():
            return WRONG_INPUT
        case Unreachable():
            return UNREACHABLE
        case StillroomError():
            return REFUSED
    return WRONG_INPUT  # a file or folder of the user's that cannot be read or written


def error_object(error: Exception) -> dict[str, Any]:
    match error:
        case ApiError():
            return error.problem
        case JobFailed():
            return {"code": "job_failed", "detail": str(error), "job": error.job}
        case Unreachable():
            return {"code": "unreachable", "detail": str(error)}
        case StillroomError():
            return {"code": type(error).__name__.lower(), "detail": str(error)}
    return {"code": "file", "detail": str(error)}


def explain(err: Console, error: Exception) -> None:
    """Say what happened and what to do."""
    err.print(Text.assemble(("error: ", "bold red"), _message(error)), soft_wrap=True)
    if isinstance(error, JobFailed) and error.job["error"]:
        err.print(error_view(error.job), soft_wrap=True)
    if isinstance(error, ApiError) and error.fields:
        err.print(field_table(error.fields))
    if isinstance(error, Unauthorized):
        err.print("Give the service's key with --api-key or in STILLROOM_API_KEY.")
    if isinstance(error, Unreachable) and error.url.startswith("http"):
        err.print("Is the service running there? `make up` starts one; --url or STILLROOM_URL says where it is.")


def _message(error: Exception) -> str:
    if isinstance(error, JobFailed):
        return f"{error.job['id']} was cancelled" if error.job["status"] == "cancelled" else f"{error.job['id']} failed"
    if isinstance(error, OSError) and error.filename:
        return f"{Path(str(error.filename))}: {error.strerror}"
    return str(error)
