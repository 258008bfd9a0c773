"""Base students: the product's own domain-agnostic phase on Tiny ImageNet's training photos, labels unused.

Photos of the demo's domain (food) are left out, so that the demo's student never meets a photo of its classes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from distillation.datasets import import_dataset, is_dataset
from distillation.plan import STARTER
from distillation.protocol import Reporter, Request, file_sha256
from distillation.recipe import Recipe, SizePreset
from distillation.runner import run_stage
from starter.classes import DOMAINS
from starter.photos import class_names, files_of_classes

STEPS: dict[SizePreset, int] = {"xs": 12_000, "s": 2000, "m": 2500, "l": 1600}
"""Of each preset on two CPU cores, in the order of training."""
PHOTOS, VIEWS, BATCH = 60_000, 8, 128
"""At most so many photos, and views of each: with two a long training knows them by heart (docs/recipes.md)."""
OPTIMIZER, RATE, LATER_RATE = "muon", 1e-2, 5e-3
"""With its rates from random weights and from those of another preset (docs/recipes.md)."""
START: dict[SizePreset, SizePreset] = {"s": "xs"}
"""The preset whose weights another starts from: the same network, at a size where a step costs half as much."""


def teacher_name() -> str:
    """The first digits of the sha256 of the starter teacher's weights, which tell its editions apart."""
    return file_sha256(STARTER / "teacher" / "open_clip_model.safetensors")[:8]


def train_base_student(data: Path, work: Path, *, preset: SizePreset, steps: int | None, views: int, seed: int) -> Path:
    """Distil the starter teacher into one preset on unlabelled photos; returns the folder written.

    Args:
        steps: of ``BATCH`` photos; None: as many as ``STEPS`` says.
        views: of each photo that the teacher looks at, once; long trainings need several.
    """
    steps, photos = steps or STEPS[preset], work / "photos"
    if not is_dataset(photos):
        others = set(range(len(class_names(data)))) - set(DOMAINS["food"])
        with files_of_classes(data, "train", others, work / "parquet") as source:
            import_dataset(source, photos)
    recipe = Recipe.model_validate(
        {
            "domain": {"name": "anything", "classes": ["thing", "other thing"]},
            "student": {"size": preset, "init": "scratch"},
            "training": {
                "optimizer": OPTIMIZER,
                "lr": LATER_RATE if preset in START else RATE,
                "batch_size": BATCH,
                "views": views,
                "crop_scale": [0.4, 1.0],
                "seed": seed,
                "agnostic": {"source": str(photos), "max_images": PHOTOS, "steps": steps},
            },
        }
    )
    of_teacher = work / teacher_name()
    out, embedded = of_teacher / f"student-{preset}-{steps}-{views}", of_teacher / f"embedded-{views}"
    inputs = {"embed": [embedded]}
    if preset in START:
        inputs["earlier"] = [STARTER / "students" / START[preset]]
    if not (embedded / "manifest.json").is_file():
        run_stage(Request("embed", 0, "starter", recipe, {"agnostic_source": [photos]}, embedded), Reporter())
    if not (out / "manifest.json").is_file():
        run_stage(Request("agnostic", 0, f"starter-{preset}", recipe, inputs, out), Reporter())
    target = STARTER / "students" / preset
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(out / "student.json", target / "student.json")
    weights = load_file(out / "student.safetensors")
    halves = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
    save_file(halves, target / "student.safetensors")
    print(f"{preset}: {target / 'student.safetensors'} {file_sha256(target / 'student.safetensors')[:16]}")
    return target
