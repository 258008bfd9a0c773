"""What can be found out about a generator's training before it is queued, all at once."""

from __future__ import annotations

import json

from sqlalchemy.orm import Session

from api.errors import FieldError, field_error
from api.jobs.preflight import fingerprints, folder_errors, generator_errors, refusal
from distillation.errors import DatasetError
from distillation.generator_recipe import GeneratorRecipe, classes_of, unusable_teacher
from distillation.names import known_towers, teacher_problem
from distillation.plan import StageTask, model_folder, plan_generator
from distillation.recipe_fields import is_trained
from distillation.taught_classes import taught_classes
from state.tables import Dataset


def check(session: Session, recipe: GeneratorRecipe) -> list[StageTask]:
    """Plan the job.

    Raises:
        Problem: 422 ``preflight_failed``, with every error that could be found.
    """
    errors = [*_dataset(session, recipe), *_teacher(recipe), *_base(session, recipe.base)]
    if errors:
        raise refusal(errors)
    return plan_generator(recipe, fingerprints(session))


def _dataset(session: Session, recipe: GeneratorRecipe) -> list[FieldError]:
    dataset = session.get(Dataset, recipe.dataset)
    if dataset is None:
        message = f"there is no dataset '{recipe.dataset}'; upload the photos with POST /v1/datasets and give the id"
        return [field_error("/dataset", message, "unknown_dataset")]
    try:
        classes_of(recipe, dataset.classes)
    except DatasetError as error:
        pointer = "/dataset" if recipe.classes is None else "/classes"
        return [field_error(pointer, f"{error.message}; {error.hint}", "bad_dataset")]
    return []


def _teacher(recipe: GeneratorRecipe) -> list[FieldError]:
    """Its directory, if it has one, must be there; what is known of it must be a model that can guide a generator."""
    if problem := teacher_problem(recipe.teacher):
        field, message = problem
        return [field_error(f"/teacher/{field}", message, "weights_missing")]
    folder = model_folder(recipe.teacher.model, "teacher")
    if folder is None:
        described = known_towers(recipe.teacher.model)
    elif errors := folder_errors([("/teacher/model", folder, "open_clip_config.json")]):
        return errors
    else:
        described = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8")).get("model_cfg", {})
    reason = unusable_teacher(described) if described is not None else None
    return [field_error("/teacher/model", reason, "bad_architecture")] if reason else []


def _base(session: Session, base: str | None) -> list[FieldError]:
    """It must be there, and say what it was taught: pipelines of others do not."""
    if base is None:
        return []
    if is_trained(base):
        return generator_errors(session, base, "/base")
    folder = model_folder(base, "generator")
    if folder is not None and (errors := folder_errors([("/base", folder, "model_index.json")])):
        return errors
    if taught_classes(base) is None:
        message = f"'{base}' is no generator trained here; name `starter`, one of GET /v1/generators, or leave it out"
        return [field_error("/base", message, "bad_architecture")]
    return []
