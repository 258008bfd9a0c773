"""One domain's shared work (photos, images, base student) and its students, in folders; what is done is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.photos.arms import LOSSES, REAL, UNTOUCHED
from benchmarks.photos.domains import OTHERS, PhotoDomain, photos_of
from benchmarks.stages_here import Inputs, generated_images, merged, stage_folder
from distillation.recipe import Recipe
from starter.students import LATER_RATE, OPTIMIZER, PHOTOS, RATE, VIEWS

BASE_SIZE, LATER_SHARE = 64, 0.2
"""Base students of more pixels learn at the photos' own 64 first, where a step costs less, then so many steps more."""


class DomainBench:
    """The students of one domain, in folders under ``work``.

    Args:
        base: what all arms' recipes have in common, without domain and losses.
        base_steps: length of the base student's training on photos of classes of no domain. All domains and lengths
            share it.
        levers: what each lever changes in the recipe of ``l2``.
    """

    def __init__(
        self,
        data: Path,
        domain: PhotoDomain,
        base: dict[str, Any],
        base_steps: int,
        levers: Mapping[str, dict[str, Any]],
        work: Path,
    ) -> None:
        self._data, self._domain, self._base, self._levers = data, domain, base, levers
        self._shared = work
        of_base = self._name_of_base(base_steps, base["student"]["image_size"])
        length = f"{base['data']['images_per_class']}-{base['training']['steps']}"
        # Students of another generator's images are others: its folder is named by what it is.
        generator = base["data"].get("generator")
        images_of = Path(generator["model"]).parent.name if generator else domain.name
        self._work = work / f"{of_base}-{length}" / images_of
        self.measured = self._dataset(domain.split, domain.name, domain.labels)
        self.recipe = self._recipe({})
        self._base_photos, self._base_student = self._learn_base(base_steps)

    def student(self, arm: str, seed: int) -> Path:
        """The folder of the student of an arm or a lever."""
        if arm == UNTOUCHED:
            return self._base_student
        if arm == REAL:
            photos = self._dataset("train", self._domain.name, self._domain.labels)
            agnostic = {"source": str(photos), "steps": self._base["training"]["steps"]}
            recipe = self._recipe({"training": {"agnostic": agnostic, "seed": seed}})
            start = self._start("earlier")
            return self._learn_photos(f"{self._domain.name}-{seed}", recipe, photos, start, self._work)[1]
        recipe = self._of(arm, seed)
        inputs = {"generate": self._images(recipe), **self._start("agnostic")}
        if recipe.training.mix:
            inputs["embed"] = [self._base_photos]
        return self._run("distil", f"{arm}-{seed}", recipe, inputs)

    def report(self, arm: str, seed: int) -> dict[str, Any]:
        """The product's evaluation of the arm's student: teacher and student on photos and on held-out synthetic."""
        recipe = self._of(arm, seed)
        inputs = {"generate": self._images(recipe), "distil": [self.student(arm, seed)], "dataset": [self.measured]}
        folder = self._run("evaluate", f"{arm}-{seed}", recipe, inputs)
        content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return content

    def _of(self, arm: str, seed: int) -> Recipe:
        changes = self._levers.get(arm, {"training": {"losses": LOSSES.get(arm, {"l2": 1})}})
        return self._recipe(merged({"training": {"seed": seed}}, changes))

    def _recipe(self, changes: dict[str, Any]) -> Recipe:
        classes = [{"name": name, "synonyms": others} for name, *others in self._domain.classes]
        common = {**self._base, "domain": {"name": self._domain.name, "classes": classes}}
        return Recipe.model_validate(merged(common, changes))

    def _dataset(self, split: str, name: str, labels: tuple[int, ...]) -> Path:
        return photos_of(self._data, split, labels, self._shared / "photos" / f"{name}-{split}")

    def _start(self, name: str) -> Inputs:
        return {name: [self._base_student]}

    def _name_of_base(self, steps: int, image_size: int) -> str:
        return f"{self._base['student']['fewer_params']:g}-{image_size}px-{steps}-{OPTIMIZER}"

    def _learn_base(self, steps: int) -> tuple[Path, Path]:
        """The base student's embedded photos and itself: the product's domain-agnostic phase, as the starter's."""
        photos, wanted = self._dataset("train", "things", OTHERS), self._base["student"]["image_size"]

        def learn(image_size: int, length: int, rate: float, start: Inputs) -> tuple[Path, Path]:
            agnostic = {"source": str(photos), "steps": length, "max_images": PHOTOS}
            training = {"optimizer": OPTIMIZER, "lr": rate, "views": VIEWS, "agnostic": agnostic}
            student = {"init": "scratch", "image_size": image_size}
            folder = self._shared / f"base-{self._name_of_base(steps, image_size)}"
            recipe = self._recipe({"student": student, "training": training})
            return self._learn_photos(f"things-{VIEWS}-views", recipe, photos, start, folder)

        first = learn(min(wanted, BASE_SIZE), steps, RATE, {})
        if wanted <= BASE_SIZE:
            return first
        later = max(1, round(LATER_SHARE * steps))
        return learn(wanted, later, LATER_RATE, {"earlier": [first[1]]})

    def _learn_photos(self, name: str, recipe: Recipe, photos: Path, start: Inputs, folder: Path) -> tuple[Path, Path]:
        embedded = self._run("embed", name, recipe, {"agnostic_source": [photos]}, folder=self._shared / "embedded")
        return embedded, self._run("agnostic", name, recipe, {"embed": [embedded], **start}, folder=folder)

    def _images(self, recipe: Recipe) -> list[Path]:
        return generated_images(recipe, self._shared / "images", lambda: self._tell("generate"))

    def _run(self, stage: str, name: str, recipe: Recipe, inputs: Inputs, *, folder: Path | None = None) -> Path:
        out = (folder or self._work) / f"{stage}-{name.replace(' ', '-')}"
        return stage_folder(stage, recipe, inputs, out, tell=lambda: self._tell(f"{stage} {name}"))

    def _tell(self, what: str) -> None:
        console.print(f"{self._domain.name}: {what}", highlight=False)
