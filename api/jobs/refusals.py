"""Everything that is wrong with a job in one answer: what is not valid, and what preflight finds in the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sqlalchemy import Engine

from api.deps import get_engine
from api.errors import FieldError, Problem, validation_problem
from api.jobs import preflight
from distillation.recipe import Recipe
from state.database import read_scope

FieldPath = tuple[str, ...]
RESTS_ON: dict[str, FieldPath] = {"student": ("teacher",), "domain": ("data", "generator"), "evaluation": ("domain",)}
"""What else the preflight of a section looks at; of that one's defaults it would say nothing true."""
ROUNDS = 3
"""Of leaving out what is not valid: a section may be checked as a whole only once all its fields are."""


class JobRoute(APIRoute):
    """Routes whose refusal of a recipe tells all at once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_and_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                if not isinstance(error.body, dict) or "recipe" not in error.body:
                    raise
                more = await run_in_threadpool(_preflight_errors, get_engine(request), error.body["recipe"])
                raise validation_problem(error.errors(), more) from error

        return handle_and_explain


def _preflight_errors(engine: Engine, content: Any) -> list[FieldError]:
    recipe, left_out = valid_part(content)
    if recipe is None:
        return []
    try:
        with read_scope(engine) as session:
            preflight.check(session, recipe)
    except Problem as refused:
        return [error for error in refused.errors if _is_sure(error.pointer, left_out)]
    return []


def _is_sure(pointer: str, left_out: set[FieldPath]) -> bool:
    """Whether an error is about what the user wrote, not about a default in the place of what is left out."""
    field = tuple(pointer.split("/")[2:])
    rests_on = RESTS_ON.get(field[0], field)
    return not any(_touch(path, gone) for path in (field, rests_on) for gone in left_out)


def _touch(first: FieldPath, second: FieldPath) -> bool:
    """Whether one lies in the other."""
    return all(one == other for one, other in zip(first, second, strict=False))


def valid_part(content: Any) -> tuple[Recipe | None, set[FieldPath]]:
    """The recipe without the fields that are not valid, or None where nothing is left; and what was left out."""
    content, left_out = copy.deepcopy(content), set[FieldPath]()
    for _ in range(ROUNDS):
        try:
            return Recipe.model_validate(content), left_out
        except ValidationError as error:
            for one in error.errors():
                left_out.add(_leave_out(content, one["loc"]))
    return None, left_out


def _leave_out(content: Any, path: Sequence[int | str]) -> FieldPath:
    """Remove the field at ``path``, or the deepest that is there on the way to it; never an item of a list alone.

    Returns:
        What was removed; empty: nothing.
    """
    walked: list[str] = []
    holder, removed = None, 0
    for part in path:
        if isinstance(content, dict) and part in content:
            holder, removed = content, len(walked) + 1
        elif not (isinstance(content, list) and isinstance(part, int) and part < len(content)):
            break
        content = content[part]
        walked.append(str(part))
    if holder is not None:
        holder.pop(walked[removed - 1])
    return tuple(walked[:removed])
