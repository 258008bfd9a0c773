"""The paper's table on real photos: students distilled on synthetic images only, measured on photos of four domains.

    python -m benchmarks.photos --data DIR [--domain food ...] [--arm l2 ...] [--seeds 1] [--steps 600]

For each domain: images of its classes by the starter generator, a base student that has seen photos of all *other*
classes, then one student for each arm (see ``arms.py``), with the same images, start, steps and seed. Nothing is
chosen by the photos: every arm trains a fixed number of steps, its averaged weights are measured once. Classes that
the starter generator cannot draw are left out, and counted in the results.

Results go to ``docs/results`` (``photos.json``, ``photos.md``, plots); a second call adds to them and repeats nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.harness import console
from benchmarks.photos.arms import ARMS, BATCH, DomainBench
from benchmarks.photos.corruptions import corrupted
from benchmarks.photos.domains import LABELS, read_domains
from benchmarks.photos.results import add_result, write_results
from distillation.distilling import load_recipe_teacher
from distillation.image_sets import ImageSet, real_images
from distillation.preprocess import embed, student_preprocess
from distillation.prompts import zero_shot_prompts
from distillation.recipe import Recipe
from distillation.student_folder import read_student
from models.students import student_features


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the Tiny ImageNet files.")],
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain (may be repeated).")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (may be repeated).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps on synthetic images.")] = 600,
    base_steps: Annotated[int, typer.Option(min=1, help="Steps of the base student on photos of other classes.")] = 800,
    images_per_class: Annotated[int, typer.Option(min=10)] = 300,
    student: Annotated[str, typer.Option(help="Preset of the students.")] = "s",
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/photos"),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results"),
) -> None:
    if unknown := [name for name in arm or () if name not in ARMS]:
        raise typer.BadParameter(f"no arm {unknown[0]!r}; there are {', '.join(ARMS)}", param_hint="--arm")
    base = {
        "student": {"size": student},
        "data": {
            "images_per_class": images_per_class,
            "filter": {"max_attempts": 20},
            "prompts": {"dimensions": {"setting": ["in bright light", "at night", "white background", "in daylight"]}},
        },
        "training": {"batch_size": BATCH, "steps": steps},
    }
    for one in read_domains(data, domain or list(LABELS)):
        if len(one.labels) < 2:
            console.print(f"{one.name}: left out, the generator draws {len(one.labels)} of its classes")
            continue
        bench = DomainBench(data, one, base, base_steps, work / f"{student}-{images_per_class}-{steps}")
        judge = Judge(bench, work / "corrupted" / one.name)
        for seed in range(seeds):
            for name in arm or ARMS:
                report = bench.report(name, seed)
                extra = {"student_corrupted": judge.student(bench.student(name, seed)), **judge.teacher}
                add_result(out, domain=one, arm=name, seed=seed, steps=steps, report=report, extra=extra)
    write_results(out)


class Judge:
    """Mean accuracy of models on the corrupted photos of one domain."""

    def __init__(self, bench: DomainBench, kept: Path) -> None:
        self._recipe: Recipe = bench.recipe
        self._teacher = load_recipe_teacher(self._recipe, torch.device("cpu"))
        self._head = self._teacher.zero_shot_head(zero_shot_prompts(self._recipe.domain)).numpy()
        photos, _ = real_images(bench.validation, self._recipe.domain)
        self._sets = corrupted(photos, 0, kept)
        accuracy = self._mean(self._teacher.encode_image, self._teacher.preprocess_cfg)
        self.teacher = {"teacher_corrupted": accuracy, "corruptions": len(self._sets)}

    def student(self, folder: Path) -> float:
        model, described = read_student(folder)
        cfg = student_preprocess(self._teacher.preprocess_cfg, described["image_size"])
        return self._mean(lambda pixels: student_features(model, pixels, autocast=False), cfg)

    @torch.inference_mode()
    def _mean(self, encode: Any, cfg: dict[str, Any]) -> float:
        return float(np.mean([self._accuracy(encode, images, cfg) for images in self._sets]))

    def _accuracy(self, encode: Any, images: ImageSet, cfg: dict[str, Any]) -> float:
        features = embed(encode, images, cfg, on_batch=lambda _count: None, on_halved=lambda _size: None)
        return float(((features @ self._head).argmax(1) == images.labels).mean())


if __name__ == "__main__":
    typer.run(main)
