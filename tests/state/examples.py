"""Small jobs for the tests of state and workers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sqlalchemy.orm import Session

from distillation.generator_recipe import GeneratorRecipe
from distillation.plan import StageTask
from distillation.recipe import Recipe
from state.jobs import create_job
from state.tables import Job

GENERATOR_RECIPE = GeneratorRecipe.model_validate({"name": "fruit", "dataset": "ds_fruit"})
RECIPE = Recipe.model_validate({"domain": {"name": "fruit", "classes": ["orange", "banana"]}})


def stage_tasks(images: str = "images", student: str = "student", shards: int = 2) -> list[StageTask]:
    """The tasks of a job; the names stand for what decides the images and the student."""
    generate = [StageTask("generate", n, _key("generate", images, n), ("prompts",)) for n in range(shards)]
    return [
        StageTask("prompts", 0, _key("prompts", images), ()),
        *generate,
        StageTask("distil", 0, _key("distil", images, student), ("generate",)),
        StageTask("evaluate", 0, _key("evaluate", images, student), ("generate", "distil")),
        StageTask("export", 0, _key("export", images, student), ("generate", "distil", "evaluate")),
    ]


def new_job(
    session: Session,
    tasks: list[StageTask] | None = None,
    *,
    recipe: Recipe = RECIPE,
    metadata: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    body_hash: str | None = None,
) -> Job:
    return create_job(
        session,
        recipe,
        tasks=stage_tasks() if tasks is None else tasks,
        metadata=metadata,
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
