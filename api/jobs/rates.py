"""How fast this installation is, from the jobs it has done: what estimates are made of."""

from __future__ import annotations

from contextlib import suppress
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.preflight import resolve
from distillation.estimate import Rates
from distillation.recipe import Recipe
from state.tables import Job, Task

LOOKED_AT = 40
"""Tasks, the latest ones: machines change."""
DECIDE_SPEED = ("model", "revision", "lora", "decoder", "steps", "guidance", "size")


def measured_rates(session: Session, recipe: Recipe) -> Rates:
    """Medians over the latest tasks; a rate without any is left out."""
    query = (
        select(Task.stage, Task.summary, Job.recipe)
        .join(Job, Job.id == Task.job_id)
        .where(Task.stage.in_(("generate", "embed", "distil")), Task.status == "done", Task.reused.is_(False))
        .order_by(Task.finished_at.desc())
        .limit(LOOKED_AT)
    )
    generator, teacher = (part.model_dump(mode="json") for part in (recipe.data.generator, recipe.teacher))
    images: list[float] = []
    views: list[float] = []
    gmacs: list[float] = []
    for stage, summary, done in session.execute(query):
        rate = (summary or {}).get("views_per_s" if stage == "embed" else "images_per_s") or 0.0
        if stage == "generate" and rate and _same_speed(done["data"]["generator"], generator):
            images.append(rate)
        elif stage == "embed" and rate and done["teacher"] == teacher:  # 0: all was embedded in earlier attempts
            views.append(rate)
        elif stage == "distil" and rate:
            with suppress(ValueError):  # a recipe of an earlier version
                gmacs.append(3 * resolve(Recipe.model_validate(done)).macs * rate / 1e9)
    rates: Rates = {}
    if images:
        rates["images_per_s"] = median(images)
    if views:
        rates["views_per_s"] = median(views)
    if gmacs := [value for value in gmacs if value]:  # 0: the catalogue does not know the student
        rates["train_gmacs_per_s"] = median(gmacs)
    return rates


def _same_speed(done: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(done.get(name) == wanted[name] for name in DECIDE_SPEED)
