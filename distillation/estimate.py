"""What a job will cost, before it runs: images, steps, minutes, bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from distillation.catalogue import Resolved
from distillation.plan import image_count, step_count
from distillation.recipe import Recipe
from distillation.recipe_fields import is_trained


class Rates(TypedDict, total=False):
    """Speeds: images kept per second, and the student's multiplications in training."""

    images_per_s: float
    train_gmacs_per_s: float


class Estimate(TypedDict):
    images: int
    steps: int | None
    minutes: float
    bytes: int
    basis: str


TYPICAL_RATES: Mapping[str, Rates] = {
    # Measured on two CPU cores (make demo): starter generator with four views of each image; student steps at bf16.
    "starter": {"images_per_s": 150.0, "train_gmacs_per_s": 80.0},
    # A 24 GB GPU with a few-step pipeline; an assumption until this installation has measured.
    "full": {"images_per_s": 10.0, "train_gmacs_per_s": 3000.0},
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
    """Estimate one job.

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
        minutes += images / measured.get("images_per_s", expected) / 60
    steps = step_count(recipe)
    if "distil" not in reused:
        if steps is None:
            minutes += recipe.training.minutes or 0.0
        else:
            gmacs = 3 * student.macs * recipe.training.batch_size * steps / 1e9
            minutes += gmacs / measured.get("train_gmacs_per_s", typical["train_gmacs_per_s"]) / 60
    pixels = images * min(side, 256) ** 2 * 3
    features = images * (recipe.training.views + 1) * 2 * 512
    jpeg = images * side * side // 4
    return {
        "images": images,
        "steps": steps,
        "minutes": round(minutes, 1),
        "bytes": pixels + features + jpeg + 8 * student.params,
        "basis": _basis(measured, tier),
    }


def _basis(measured: Rates, tier: str) -> str:
    names = {"images_per_s": "generation", "train_gmacs_per_s": "training"}
    known = [name for rate, name in names.items() if rate in measured]
    if len(known) == len(names):
        return "measured on this installation"
    guessed = f"typical rates of the {tier} tier"
    return f"{known[0]} measured on this installation, else {guessed}" if known else guessed
