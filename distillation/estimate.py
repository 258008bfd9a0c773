"""What a job will cost, before it runs: images, steps, minutes, bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from distillation.catalogue import Resolved, resolve_student, students_for
from distillation.plan import image_count, step_count
from distillation.recipe import Recipe, Student
from distillation.recipe_fields import is_trained
from distillation.teachers import TYPICAL, TeacherShape, stored_side


class Rates(TypedDict, total=False):
    """Speeds: images kept per second, photos' views that the teacher embeds, the student's multiplications in
    training."""

    images_per_s: float
    views_per_s: float
    train_gmacs_per_s: float


class Estimate(TypedDict):
    images: int
    steps: int | None
    minutes: float
    bytes: int
    basis: str


TYPICAL_RATES: Mapping[str, Rates] = {
    # Measured on two CPU cores (make demo): starter generator with four views of each image; student steps at bf16.
    "starter": {"images_per_s": 150.0, "views_per_s": 400.0, "train_gmacs_per_s": 80.0},
    # A 24 GB GPU with a few-step pipeline; an assumption until this installation has measured.
    "full": {"images_per_s": 10.0, "views_per_s": 3000.0, "train_gmacs_per_s": 3000.0},
}
TYPICAL_SIDE = {"starter": 64, "full": 512}
"""Side in pixels of the images behind the rates; the work grows with the area."""
SAMPLES_PER_KEPT_IMAGE = 2.0
"""Where the teacher refuses images: a guess, for it depends on the generator."""
FIXED_MINUTES = 0.2
"""Process starts, evaluation and export."""


def estimate(
    recipe: Recipe,
    student: Resolved,
    teacher: TeacherShape,
    *,
    reused: frozenset[str] = frozenset(),
    measured: Rates | None = None,
) -> Estimate:
    """Estimate one job; of the domain-agnostic phase, as if its source held ``max_images`` photos.

    Args:
        reused: stages whose outputs exist already.
        measured: speeds of earlier jobs of this installation, as far as there are any; of images of this recipe's
            generator and size, for they depend on both.
    """
    model = recipe.data.generator.model
    tier = "starter" if model == "starter" or is_trained(model) else "full"
    measured = measured or {}
    taken = student if student.macs else _costliest(student, teacher)
    typical = TYPICAL_RATES[tier]
    images = image_count(recipe)
    minutes = FIXED_MINUTES
    side = recipe.data.generator.size or TYPICAL_SIDE[tier]
    if "generate" not in reused:
        tries = SAMPLES_PER_KEPT_IMAGE if recipe.data.filter.teacher_agrees else 1
        expected = typical["images_per_s"] / tries / (side / TYPICAL_SIDE[tier]) ** 2
        minutes += _minutes(images, measured.get("images_per_s", expected))
    train_gmacs_per_s = measured.get("train_gmacs_per_s", typical["train_gmacs_per_s"])
    gmacs_of_step = 3 * taken.macs * recipe.training.batch_size / 1e9
    steps = step_count(recipe)
    if "distil" not in reused:
        minutes += _minutes(gmacs_of_step * steps, train_gmacs_per_s) if steps else recipe.training.minutes or 0.0
    views, largest = recipe.training.views, stored_side(teacher.image_size)
    stored = images * _stored_bytes(min(side, largest), views, teacher.embed_dim)
    if phase := recipe.training.agnostic:
        stored += phase.max_images * _stored_bytes(largest, views, teacher.embed_dim)
        if "embed" not in reused:
            minutes += _minutes(phase.max_images * views, measured.get("views_per_s", typical["views_per_s"]))
        if "agnostic" not in reused:
            steps_of_phase = phase.steps or phase.max_images * phase.epochs / recipe.training.batch_size
            minutes += _minutes(gmacs_of_step * steps_of_phase, train_gmacs_per_s)
    jpeg = images * side * side // 4
    basis = _basis(measured, tier, recipe.training.agnostic is not None)
    if taken is not student:
        basis += f"; the costs of {student.architecture} are unknown, those of {taken.architecture} are taken"
    if teacher == TYPICAL:
        basis += f"; the size of {recipe.teacher.model} is unknown, that of a ViT-B-32 is taken"
    return {
        "images": images,
        "steps": steps,
        "minutes": round(minutes, 1),
        "bytes": stored + jpeg + 8 * taken.params,
        "basis": basis,
    }


def _costliest(student: Resolved, teacher: TeacherShape) -> Resolved:
    """The catalogue's student that takes longest to train, at the size of one whose costs it does not hold."""
    row = max(students_for(teacher.image_size), key=lambda row: row.macs)
    wanted = {"architecture": row.architecture, "image_size": student.image_size}
    return resolve_student(Student.model_validate(wanted), teacher)


def _stored_bytes(side: int, views: int, width: int) -> int:
    """Of an image or photo: pixels, views with their features in fp16, label and holdout flag; see docs/scale.md."""
    return 3 * side**2 + (2 * width + 20) * views + 5


def _minutes(work: float, per_second: float) -> float:
    return work / per_second / 60


def _basis(measured: Rates, tier: str, embeds: bool) -> str:
    names = {"images_per_s": "generation", "views_per_s": "embedding", "train_gmacs_per_s": "training"}
    wanted = [rate for rate in names if rate != "views_per_s" or embeds]
    known = [names[rate] for rate in wanted if rate in measured]
    if len(known) == len(wanted):
        return "measured on this installation"
    guessed = f"typical rates of the {tier} tier"
    return f"{' and '.join(known)} measured on this installation, else {guessed}" if known else guessed
