"""What a job will cost, before it runs: images, steps, minutes, bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from distillation.catalogue import Resolved
from distillation.plan import image_count, step_count
from distillation.recipe import Recipe
from distillation.recipe_fields import is_trained


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
    recipe: Recipe, student: Resolved, *, reused: frozenset[str] = frozenset(), measured: Rates | None = None
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
    typical = TYPICAL_RATES[tier]
    images = image_count(recipe)
    minutes = FIXED_MINUTES
    side = recipe.data.generator.size or TYPICAL_SIDE[tier]
    if "generate" not in reused:
        tries = SAMPLES_PER_KEPT_IMAGE if recipe.data.filter.teacher_agrees else 1
        expected = typical["images_per_s"] / tries / (side / TYPICAL_SIDE[tier]) ** 2
        minutes += _minutes(images, measured.get("images_per_s", expected))
    train_gmacs_per_s = measured.get("train_gmacs_per_s", typical["train_gmacs_per_s"])
    gmacs_of_step = 3 * student.macs * recipe.training.batch_size / 1e9
    steps = step_count(recipe)
    if "distil" not in reused:
        minutes += _minutes(gmacs_of_step * steps, train_gmacs_per_s) if steps else recipe.training.minutes or 0.0
    stored = images
    if phase := recipe.training.agnostic:
        stored += phase.max_images
        views = phase.max_images * recipe.training.views
        if "embed" not in reused:
            minutes += _minutes(views, measured.get("views_per_s", typical["views_per_s"]))
        if "agnostic" not in reused:
            steps_of_phase = phase.steps or phase.max_images * phase.epochs / recipe.training.batch_size
            minutes += _minutes(gmacs_of_step * steps_of_phase, train_gmacs_per_s)
    pixels = stored * min(side, 256) ** 2 * 3
    features = stored * recipe.training.views * 2 * 512
    jpeg = images * side * side // 4
    return {
        "images": images,
        "steps": steps,
        "minutes": round(minutes, 1),
        "bytes": pixels + features + jpeg + 8 * student.params,
        "basis": _basis(measured, tier, recipe.training.agnostic is not None),
    }


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
