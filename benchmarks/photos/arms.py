"""The arms: how each student is trained. All of one domain share images, teacher features, start, steps and seed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.photos.domains import PhotoDomain, photos_of
from distillation.plan import plan
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe
from distillation.runner import run_stage

BATCH = 128
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

BASE_PHOTOS = {"max_images": 30_000, "views": 1}
"""Of the base student: many photos, each seen in one view."""

REAL, UNTOUCHED = "real photos", "base student"
ARMS = (*LOSSES, REAL, UNTOUCHED)


class DomainBench:
    """One domain's shared work (photos, images, base student) and its arms, in folders under ``work``; done is kept.

    Args:
        base: what all arms' recipes have in common, without domain and losses.
        agnostic_steps: length of the base student's training on photos of all other classes.
    """

    def __init__(self, data: Path, domain: PhotoDomain, base: dict[str, Any], agnostic_steps: int, work: Path) -> None:
        self._domain, self._base, self._work = domain, base, work / domain.name
        self._steps = base["training"]["steps"]
        self.validation = photos_of(data, "validation", domain.labels, self._work / "validation")
        self._domain_photos = photos_of(data, "train", domain.labels, self._work / "domain-photos")
        self._other_photos = photos_of(data, "train", domain.others, self._work / "other-photos")
        self.recipe = self._recipe({"l2": 1})
        self.shards = self._generate()
        base_recipe = self._recipe({"l2": 1}, 0, self._other_photos, agnostic_steps, **BASE_PHOTOS)
        self._base_student = self._learn_photos("base", base_recipe, self._other_photos, [])

    def student(self, arm: str, seed: int) -> Path:
        """The folder of the arm's student."""
        if arm == UNTOUCHED:
            return self._base_student
        if arm == REAL:
            recipe = self._recipe({"l2": 1}, seed, self._domain_photos, self._steps)
            return self._learn_photos(f"real-{seed}", recipe, self._domain_photos, [self._base_student])
        recipe = self._recipe(LOSSES[arm], seed)
        inputs = {"generate": self.shards, "agnostic": [self._base_student]}
        return self._run("distil", f"{arm}-{seed}", recipe, inputs)

    def report(self, arm: str, seed: int) -> dict[str, Any]:
        """The product's evaluation of the arm's student: teacher and student on real and on held-out synthetic."""
        inputs = {"generate": self.shards, "distil": [self.student(arm, seed)], "dataset": [self.validation]}
        folder = self._run("evaluate", f"{arm}-{seed}", self._recipe({"l2": 1}, seed), inputs)
        content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return content

    def _recipe(
        self,
        losses: dict[str, float],
        seed: int = 0,
        photos: Path | None = None,
        steps: int = 0,
        *,
        max_images: int = 100_000,
        views: int = 4,
    ) -> Recipe:
        agnostic = {"source": str(photos), "steps": steps, "max_images": max_images} if photos else None
        training = {**self._base["training"], "losses": losses, "seed": seed, "views": views, "agnostic": agnostic}
        classes = [{"name": name, "synonyms": others} for name, *others in self._domain.classes]
        domain = {"name": self._domain.name, "classes": classes}
        return Recipe.model_validate(
            {"domain": domain, "student": self._base["student"], "data": self._base["data"], "training": training}
        )

    def _generate(self) -> list[Path]:
        tasks = plan(self.recipe, str)
        prompts = [self._run("prompts", "all", self.recipe, {})]
        shards = [task for task in tasks if task.stage == "generate"]
        inputs = {"prompts": prompts}
        return [self._run("generate", str(task.shard), self.recipe, inputs, task.shard, task.key) for task in shards]

    def _learn_photos(self, name: str, recipe: Recipe, photos: Path, earlier: list[Path]) -> Path:
        """L2 on unlabelled photos, the product's domain-agnostic phase."""
        return self._run("agnostic", name, recipe, {"agnostic_source": [photos], "earlier": earlier})

    def _run(
        self, stage: str, name: str, recipe: Recipe, inputs: dict[str, list[Path]], shard: int = 0, key: str = ""
    ) -> Path:
        out = self._work / f"{stage}-{name}"
        if not (out / "manifest.json").is_file():
            console.print(f"{self._domain.name}: {stage} {name}", highlight=False)
            shutil.rmtree(out, ignore_errors=True)
            run_stage(Request(stage, shard, key or name, recipe, inputs, out), Reporter(io.StringIO()))  # no JSON lines
        return out
