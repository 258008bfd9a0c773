"""What can be found out about a job before it is queued, all at once, each with the field at fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand
from sqlalchemy.orm import Session

from api.errors import FieldError, Problem, field_error
from api.jobs.overlaps import overlap_warnings
from distillation.catalogue import Resolved, resolve_student
from distillation.class_matching import match_classes
from distillation.errors import DatasetError
from distillation.names import teacher_problem
from distillation.plan import (
    STARTER,
    StageTask,
    dataset_fingerprint,
    model_folder,
    plan,
    recipe_teacher_shape,
    shard_count,
)
from distillation.recipe import Recipe
from distillation.recipe_fields import is_local, is_trained
from distillation.taught_classes import taught_classes, untaught_classes
from distillation.teachers import TeacherShape
from state.tables import Dataset, Generator

DATASET = "ds_"
MAX_SHARDS = 5000
URL_SCHEMES = ("http://", "https://", "s3://", "gs://", "hf://")


@dataclass(frozen=True)
class Checked:
    """A job that may be queued."""

    recipe: Recipe
    tasks: list[StageTask]
    teacher: TeacherShape
    student: Resolved
    warnings: list[str]


def check(session: Session, recipe: Recipe) -> Checked:
    """Plan the job.

    Raises:
        Problem: 422 ``preflight_failed``, with every error that could be found.
    """
    warnings: list[str] = []
    errors = [*_classes(session, recipe), *_shards(recipe), *_names(recipe), *_folders(recipe)]
    errors += generator_errors(session, recipe.data.generator.model, "/recipe/data/generator/model")
    errors += _datasets(session, recipe, warnings)
    teacher, student = recipe_teacher_shape(recipe), None
    try:
        student = resolve(recipe)
    except ValueError as error:
        errors.append(_student_error(recipe, error))
    if errors or student is None:
        raise refusal(errors)
    if not student.params:
        warnings.append(f"the catalogue does not know {student.architecture}; the training process will look it up")
    if not teacher.known and recipe.student.fewer_params is not None:
        warnings.append(
            f"how large the image tower of {recipe.teacher.model} is, is known once a worker has loaded it; until then "
            f"it is taken for a ViT-B-32's ({teacher.params_image_tower:,}), so the student may turn out another one"
        )
    warnings += overlap_warnings(session, recipe)
    recipe = _with_licence(session, recipe)
    return Checked(recipe, plan(recipe, fingerprints(session)), teacher, student, warnings)


def refusal(errors: Sequence[FieldError]) -> Problem:
    """The problem that tells of all errors."""
    count = "1 thing stands" if len(errors) == 1 else f"{len(errors)} things stand"
    return Problem(422, "preflight_failed", f"{count} in the way of this job: {errors[0].message}", errors)


def resolve(recipe: Recipe) -> Resolved:
    """The student's architecture, image size and costs; which one a preset or a budget picks depends on the teacher.

    Raises:
        ValueError: no student fits the budget, or the architecture cannot be one.
    """
    return resolve_student(recipe.student, recipe_teacher_shape(recipe))


def fingerprints(session: Session) -> Callable[[str], str]:
    """Content hash of a generator or dataset named in a recipe: an uploaded one, a path, or a URL taken at its word."""

    def fingerprint_of(name: str) -> str:
        if is_trained(name):
            return str(session.get_one(Generator, name).bundle)
        if name.startswith(DATASET):
            return session.get_one(Dataset, name).bundle
        return dataset_fingerprint(name)

    return fingerprint_of


def _classes(session: Session, recipe: Recipe) -> list[FieldError]:
    taught = taught_classes(model := recipe.data.generator.model)
    if is_trained(model) and (generator := session.get(Generator, model)) and generator.report:
        taught = generator.report["taught"]
    return [
        field_error(f"/recipe/domain/classes/{index}", message, "unknown_class")
        for index, message in untaught_classes(recipe, taught).items()
    ]


def _names(recipe: Recipe) -> list[FieldError]:
    if (problem := teacher_problem(recipe.teacher)) is None:
        return []
    field, message = problem
    return [field_error(f"/recipe/teacher/{field}", message, "weights_missing")]


def _shards(recipe: Recipe) -> list[FieldError]:
    """A job of millions of tasks would be planned in memory, and never end."""
    if (count := shard_count(recipe)) <= MAX_SHARDS:
        return []
    message = f"the images would be made by {count:,} tasks, the most is {MAX_SHARDS:,}; raise data.shard_size"
    return [field_error("/recipe/data/shard_size", message, "too_many_tasks")]


def _folders(recipe: Recipe) -> list[FieldError]:
    """Local directories that are not there, or hold something else."""
    generator, language = recipe.data.generator, recipe.data.prompts.language_model
    wanted = [
        ("/recipe/teacher/model", model_folder(recipe.teacher.model, "teacher"), "open_clip_config.json"),
        ("/recipe/data/generator/model", model_folder(generator.model, "generator"), "model_index.json"),
        ("/recipe/data/generator/lora", model_folder(generator.lora or "", "lora"), ""),
        ("/recipe/data/generator/decoder", _absolute(generator.decoder), "config.json"),
        ("/recipe/teacher/pretrained", _absolute(recipe.teacher.pretrained), ""),
    ]
    if language is not None and language.kind == "transformers":
        wanted.append(("/recipe/data/prompts/language_model/model", _absolute(language.model), "config.json"))
    return folder_errors([(pointer, path, holds) for pointer, path, holds in wanted if path is not None])


def folder_errors(wanted: Sequence[tuple[str, Path, str]]) -> list[FieldError]:
    """What is not there.

    Args:
        wanted: pointer of the field, the path that it gives, a file that a directory must hold (empty: any will do).
    """
    errors = []
    for pointer, path, holds in wanted:
        if not path.exists():
            hint = "; make them with 'make starter'" if path.is_relative_to(STARTER) else ""
            message = f"{path} does not exist on this server{hint}"
            errors.append(field_error(pointer, message, "weights_missing"))
        elif holds and not (path / holds).is_file():
            errors.append(field_error(pointer, f"{path} holds no {holds}", "weights_missing"))
    return errors


def generator_errors(session: Session, name: str, pointer: str) -> list[FieldError]:
    """A generator named by its id must be trained."""
    if not is_trained(name):
        return []
    generator = session.get(Generator, name)
    if generator is None:
        reason, code = f"there is no generator '{name}'; see GET /v1/generators", "unknown_generator"
    elif generator.bundle is None:
        reason, code = f"{name} is not trained yet; its job is {generator.job_id}", "unfinished_generator"
    else:
        return []
    return [field_error(pointer, reason, code)]


def _with_licence(session: Session, recipe: Recipe) -> Recipe:
    """The photos' licence goes with a trained generator, to the card of what is made with it."""
    wanted = recipe.data.generator
    if not is_trained(wanted.model) or wanted.licence:
        return recipe
    report = session.get_one(Generator, wanted.model).report
    assert report is not None, "an untrained generator is refused before"
    generator = wanted.model_copy(update={"licence": report["licence"]})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"generator": generator})})


def _absolute(name: str | None) -> Path | None:
    return Path(name) if name and is_local(name) else None


def _datasets(session: Session, recipe: Recipe, warnings: list[str]) -> list[FieldError]:
    errors = []
    if name := recipe.evaluation.dataset:
        pointer = "/recipe/evaluation/dataset"
        dataset = session.get(Dataset, name)
        if dataset is None:
            message = f"there is no dataset '{name}'; upload the photos with POST /v1/datasets and give the id"
            errors.append(field_error(pointer, message, "unknown_dataset"))
        else:
            try:
                warnings += match_classes(dataset.classes, recipe.domain)[1]
            except DatasetError as error:
                errors.append(field_error(pointer, f"{error.message}; {error.hint}", "bad_dataset"))
    if recipe.training.agnostic is not None:
        source, pointer = recipe.training.agnostic.source, "/recipe/training/agnostic/source"
        if source.startswith(DATASET):
            if session.get(Dataset, source) is None:
                errors.append(field_error(pointer, f"there is no dataset '{source}'", "unknown_dataset"))
        elif not source.startswith(URL_SCHEMES):
            missing = (path for path in braceexpand(source) if not Path(path).exists())
            if (first := next(missing, None)) is not None:
                more = f" and {others:,} more do" if (others := sum(1 for _ in missing)) else " does"
                errors.append(field_error(pointer, f"{first}{more} not exist on this server", "unknown_dataset"))
    return errors


def _student_error(recipe: Recipe, error: ValueError) -> FieldError:
    """Which of the ways to name a student was the wrong one."""
    student = recipe.student
    if student.architecture is not None:
        return field_error("/recipe/student/architecture", str(error), "bad_architecture")
    if not student.budget:
        return field_error("/recipe/student", str(error), "bad_architecture")
    for name in student.budget[:-1]:
        others = {other: None for other in student.budget if other != name}
        try:
            resolve(recipe.model_copy(update={"student": student.model_copy(update=others)}))
        except ValueError as alone:
            return field_error(f"/recipe/student/{name}", str(alone), "impossible_budget")
    return field_error(f"/recipe/student/{student.budget[-1]}", str(error), "impossible_budget")
