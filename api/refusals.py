"""Everything that is wrong with a recipe in one answer: what is not valid, and what preflight finds in the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from api.deps import get_engine
from api.errors import FieldError, Problem, validation_problem
from state.database import read_scope

FieldPath = tuple[str, ...]
AnyRecipe = TypeVar("AnyRecipe", bound=BaseModel)
ROUNDS = 3
"""Of leaving out what is not valid: a section may be checked as a whole only once all its fields are."""


def explaining_route(
    recipe: type[AnyRecipe],
    check: Callable[[Session, AnyRecipe], object],
    rests_on: Mapping[str, FieldPath],
    within: str = "",
) -> type[APIRoute]:
    """Routes that tell at once all that stands in the way of a recipe.

    Args:
        check: the preflight of a valid recipe; raises a Problem.
        rests_on: what else the preflight of a section looks at; of that one's defaults it would say nothing true.
        within: the field of the request's body that holds the recipe; empty: the body is one.
    """

    def preflight_errors(engine: Engine, content: Any) -> list[FieldError]:
        valid, left_out = valid_part(recipe, content)
        if valid is None:
            return []
        try:
            with read_scope(engine) as session:
                check(session, valid)
        except Problem as refused:
            return [error for error in refused.errors if is_sure(error.pointer, left_out)]
        return []

    def is_sure(pointer: str, left_out: set[FieldPath]) -> bool:
        """Whether an error is about what the user wrote, not about a default in the place of what is left out."""
        field = tuple(pointer.removeprefix(f"/{within}" if within else "").split("/")[1:])
        return not any(_touch(path, gone) for path in (field, rests_on.get(field[0], field)) for gone in left_out)

    class ExplainingRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_and_explain(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    content = error.body.get(within) if within and isinstance(error.body, dict) else error.body
                    if not isinstance(content, dict):
                        raise
                    more = await run_in_threadpool(preflight_errors, get_engine(request), content)
                    raise validation_problem(error.errors(), more) from error

            return handle_and_explain

    return ExplainingRoute


def _touch(first: FieldPath, second: FieldPath) -> bool:
    """Whether one lies in the other."""
    return all(one == other for one, other in zip(first, second, strict=False))


def valid_part(recipe: type[AnyRecipe], content: Any) -> tuple[AnyRecipe | None, set[FieldPath]]:
    """The recipe without the fields that are not valid, or None where nothing is left; and what was left out."""
    content, left_out = copy.deepcopy(content), set[FieldPath]()
    for _ in range(ROUNDS):
        try:
            return recipe.model_validate(content), left_out
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
