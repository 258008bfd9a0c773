"""Base students: the product's own domain-agnostic phase on Tiny ImageNet's training photos, labels unused."""

from __future__ import annotations

import shutil
from pathlib import Path

from distillation.datasets import import_dataset
from distillation.plan import STARTER
from distillation.protocol import Reporter, Request, file_sha256
from distillation.recipe import Recipe
from distillation.runner import run_stage

PRESETS = ("xs", "s")


def train_base_student(data: Path, work: Path, *, preset: str, steps: int, seed: int) -> Path:
    """Distil the starter teacher into one preset on unlabelled photos; returns the folder written."""
    photos = work / "photos"
    if not (photos / "dataset.json").is_file():
        source = work / "parquet"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        for path in [*sorted(data.glob("train*.parquet")), data / "classes.tsv"]:
            shutil.copyfile(path, source / path.name)
        import_dataset(source, photos)
        shutil.rmtree(source)
    recipe = Recipe.model_validate(
        {
            "domain": {"name": "anything", "classes": ["thing", "other thing"]},
            "student": {"size": preset, "init": "scratch"},
            "training": {
                "lr": 2e-3,
                "batch_size": 256,
                "views": 1,
                "crop_scale": [0.4, 1.0],
                "seed": seed,
                "agnostic": {"source": str(photos), "max_images": 30_000, "steps": steps},
            },
        }
    )
    out = work / f"student-{preset}"
    request = Request("agnostic", 0, f"starter-{preset}", recipe, {"agnostic_source": [photos]}, out)
    if not (out / "manifest.json").is_file():
        run_stage(request, Reporter())
    target = STARTER / "students" / preset
    target.mkdir(parents=True, exist_ok=True)
    for name in ("student.safetensors", "student.json"):
        shutil.copyfile(out / name, target / name)
    print(f"{preset}: {target / 'student.safetensors'} {file_sha256(target / 'student.safetensors')[:16]}")
    return target
