"""The arms: how each student is trained. All of one domain share images, teacher features, start, steps and seed.

A lever is the ``l2`` arm with one thing changed; ``best`` has what the shipped demo recipe has of those that paid, and
the levers named after it change one thing of that.
"""

from __future__ import annotations

from typing import Any

from benchmarks.stages_here import DEMO
from distillation.recipe import load_recipe

BATCH, RATE = 128, 2e-3
"""Of every arm; twice the rate of before paid on animals' training photos (docs/recipes.md)."""
CLIP_KD_GD = 1e8 * (BATCH / 1024) ** 2
"""Its weight at this batch size, see ``models.losses.gd``."""

LOSSES: dict[str, dict[str, float]] = {
    "l2": {"l2": 1},
    "mse": {"mse": 1},
    "cosine": {"cosine": 1},
    "i2i": {"i2i": 1},
    "contrastive": {"contrastive": 1},
    "crd": {"crd": 1, "contrastive": 1},
    "fd": {"mse": 2000, "contrastive": 1},
    "mfd": {"mfd": 2000, "contrastive": 1},
    "gd": {"gd": CLIP_KD_GD, "contrastive": 1},
    "icl": {"icl": 1, "contrastive": 1},
    "afd": {"afd": 1, "contrastive": 1},
    "unified": {"crd": 1, "mse": 2000, "icl": 1, "contrastive": 1},
}
"""The paper's losses, then CLIP-KD's with its task loss."""

BEST, REAL, UNTOUCHED = "best", "real photos", "base student"
ARMS = (*LOSSES, BEST, REAL, UNTOUCHED)

TEMPLATES = ["a photo of a {}", "a photo of the {}", "a small photo of a {}", "a close-up of a {}", "{}"]


def mixed(share: float) -> dict[str, Any]:
    """A share of each batch are the base student's photos: of no class that is measured, already embedded."""
    return {"training": {"agnostic": {"source": "the base student's photos", "mix": share}}}


def levers(images_per_class: int, steps: int) -> dict[str, dict[str, Any]]:
    """What each lever changes in the recipe, given what all arms have."""
    best = load_recipe(DEMO).training.model_dump(mode="json", include={"losses", "lr"})
    return {
        "one template": {"data": {"prompts": {"dimensions": {}}}},
        "no filter": {"data": {"filter": {"teacher_agrees": False}}},
        "half the images": {"data": {"images_per_class": images_per_class // 2}},
        "twice the images": {"data": {"images_per_class": 2 * images_per_class}},
        "other images": {"data": {"seed": 1}},
        "1 view": {"training": {"views": 1}},
        "8 views": {"training": {"views": 8}},
        "small crops": {"training": {"crop_scale": [0.2, 1.0]}},
        "no EMA": {"training": {"ema": None}},
        "twice the steps": {"training": {"steps": 2 * steps}},
        "four times the steps": {"training": {"steps": 4 * steps}},
        "l2 and crd": {"training": {"losses": {"l2": 1, "crd": 0.1}}},
        "l2 and more crd": {"training": {"losses": {"l2": 1, "crd": 0.5}}},
        "l2 and i2i": {"training": {"losses": {"l2": 1, "i2i": 0.1}}},
        "twice the rate": {"training": {"lr": 2 * RATE}},
        "half the rate": {"training": {"lr": RATE / 2}},
        "prompt ensemble": {"domain": {"templates": TEMPLATES}},
        "a quarter photos": mixed(0.25),
        "half photos": mixed(0.5),
        BEST: {"training": best},
        f"{BEST}, rate 0.004": {"training": {**best, "lr": 4e-3}},
        f"{BEST}, crd 1": {"training": {**best, "losses": {"l2": 1, "crd": 1}}},
        f"{BEST}, crd 2": {"training": {**best, "losses": {"l2": 1, "crd": 2}}},
        f"{BEST}, half the batch, twice the steps": {
            "training": {**best, "batch_size": BATCH // 2, "steps": 2 * steps}
        },
        f"{BEST}, twice the steps": {"training": {**best, "steps": 2 * steps}},
    }
