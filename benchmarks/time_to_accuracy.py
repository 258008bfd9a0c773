"""Seconds until a student is as good as it gets, for our training and for others, cache building included.

    python -m benchmarks.time_to_accuracy [--data DIR] [--recipe recipes/demo.yaml] [--images-per-class 55]
        [--epochs 12] [--batch-size 64] [--runs 3] [--threads 2]

The images are made once, off the clock, by the product's own stage with the recipe's generator. All arms have the same
images, teacher, student, starting weights (the starter's base student where there is one), AdamW settings, learning
rates and number of images seen; averaged weights are off. They differ in what a step computes:

- `ours`: the teacher embeds the recipe's number of views of every image first, on the clock, then cached steps with the
  recipe's losses.
- `ours, one view`: of each image as it is. The generate stage's filter has those features already; they are counted.
- `ours, L2 alone`: the recipe's views with the paper's loss, which is what the next ones learn too.
- `online L2`: the paper's loss, the teacher on new views in every step.
- `open_clip`: `DistillClipLoss` on new views and prompts, the student's text tower trained along. It starts as the
  teacher's, which favours it, and is scored with that text tower.

`tuned` is as in `benchmarks.peers`. All arms read images from memory and crop them in batches, as ours does: this
favours the peers. lightly-train is left out: it takes DINO teachers only.

Accuracy is top-1, in fp32. With ``--data`` (Tiny ImageNet's files) it is judged on training photos of the recipe's
classes, which no student has seen: what a student learns of generated images alone does not help there. Without, on
generated images of another seed; what each arm ends with on those is printed in any case. It is measured 24 times in
each training, off the clock; arms take turns from measurement to measurement. The *final accuracy* is the lowest of
what the three L2 arms end with: all three learn the same features. An arm's time to a share of it is the time of its
first measurement that is not below (the untrained start does not count). A peer that does not get there is shown as
such, and has no ratio.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.accuracy_arms import Arm, Job, Measured, new_job, online_l2, open_clip_distillation, ours
from benchmarks.harness import Ratio, console, fastest_type, matmul_flops, print_table, ratio, synchronize, write_json
from benchmarks.photos.domains import LABELS, photos_of
from benchmarks.stages_here import generated_images
from distillation.image_sets import real_images, synthetic_images
from distillation.recipe import Recipe, load_recipe
from distillation.schedules import lr_factor

MARKS = (0.95, 0.98, 1.0)
MEASUREMENTS = 24
SAME_FEATURES = 0.999
"""Smallest mean cosine of our cached features with those of the teacher in fp32."""
OURS = ("ours", "ours, one view")
L2_ARMS = ("ours, L2 alone", "online L2", "online L2, tuned")


def main(
    recipe: Annotated[Path, typer.Option(exists=True, dir_okay=False)] = Path("recipes/demo.yaml"),
    data: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Folder of Tiny ImageNet.")] = None,
    images_per_class: Annotated[int, typer.Option(min=5, help="To train on; a tenth of them is held out.")] = 55,
    measured_per_class: Annotated[int, typer.Option(min=1, help="Images, and photos, to measure on.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 12,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Trainings of each arm, with other orders and views.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> dict[str, Ratio]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = _reduced(load_recipe(recipe), images_per_class, batch_size)
    changes = {"images_per_class": measured_per_class, "seed": wanted.data.seed + 1}
    measured = wanted.model_copy(update={"data": wanted.data.model_copy(update=changes)})
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as folder:
        flops = matmul_flops(fastest_type(device.type), device.type)
        images, others = generated_images(wanted, Path(folder)), generated_images(measured, Path(folder))
        job = new_job(wanted, images, device)
        judges = {"generated": job.measured(synthetic_images(others, holdout=False))}
        if data:
            photos = photos_of(data, "train", LABELS["food"], Path(folder) / "photos")
            found, _ = real_images(photos, wanted.domain)
            judges["photos"] = job.measured(found.sample(measured_per_class * len(wanted.domain.classes), seed=0))
        *_, judge = judges.values()
        steps = max(MEASUREMENTS, round(job.corpus.count * epochs / batch_size))
        done: list[dict[str, Arm]] = []
        ends: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in judges}
        for seed in range(runs):
            training = wanted.training.model_copy(update={"seed": seed})
            once = replace(job, recipe=wanted.model_copy(update={"training": training}))
            done.append(race(once, _arms(once, Path(folder) / f"cache-{seed}"), steps, judge))
            for name, on in judges.items():
                for arm in done[-1]:
                    ends[name][arm].append(job.accuracy(done[-1][arm], on))
    final = [min(arms[name].curve[-1][1] for name in L2_ARMS) for arms in done]
    times = {
        name: {mark: [seconds_to(arms[name].curve, mark * end) for arms, end in zip(done, final, strict=True)]
               for mark in MARKS}
        for name in done[0]
    }  # fmt: skip
    ratios = {
        f"{own} than {name} to {mark:.0%}": ratio(_reached(seconds), _reached(times[own][mark]))
        for own in OURS
        for name, marks in times.items()
        for mark, seconds in marks.items()
        if name not in OURS and None not in (*seconds, *times[own][mark])
    }
    print_table(
        f"{job.corpus.count} images of {len(wanted.domain.classes)} classes, {job.size} pixels, {steps} steps of "
        f"{batch_size}, {runs} runs; final accuracy on {len(judge.labels)} {[*judges][-1]} "
        f"{statistics.median(final):.1%}, at the start {done[0]['ours'].curve[0][1]:.1%}",
        ["arm", *(f"ends with on {name}" for name in judges), *(f"seconds to {mark:.0%}" for mark in MARKS)],
        [
            [name, *(f"{statistics.median(on[name]):.1%}" for on in ends.values()), *map(_median, marks.values())]
            for name, marks in times.items()
        ],
    )
    for own in OURS:
        print_table(
            f"{own}: faster by (goal: 3 times the next best)",
            ["than", *(f"to {mark:.0%}" for mark in MARKS)],
            [
                [name, *(ratios.get(f"{own} than {name} to {mark:.0%}", "") for mark in MARKS)]
                for name in times
                if name not in OURS
            ],
        )
    if any(end <= arms["ours"].curve[0][1] for arms, end in zip(done, final, strict=True)):
        console.print("No better than at the start, so times and ratios tell nothing: give it more images or epochs.")
    write_json(
        "time_to_accuracy",
        {
            "settings": {"images": job.corpus.count, "steps": steps, "batch_size": batch_size, "runs": runs},
            "final_accuracy": final,
            "ends_with": ends,
            "seconds": {name: {str(mark): s for mark, s in marks.items()} for name, marks in times.items()},
            "curves": {name: [arms[name].curve for arms in done] for name in done[0]},
            "ratios": {name: value._asdict() for name, value in ratios.items()},
            "matmul_flops": flops,
        },
    )
    return ratios


def race(job: Job, arms: Mapping[str, Callable[[], Arm]], steps: int, judge: Measured) -> dict[str, Arm]:
    """Train all arms, in turns of as many steps as lie between two measurements."""
    entered = {name: make() for name, make in arms.items()}
    device, training = job.teacher.device.type, job.recipe.training
    for arm in entered.values():
        arm.curve.append((arm.seconds, job.accuracy(arm, judge)))
    stops = [round(steps * part / MEASUREMENTS) for part in range(MEASUREMENTS + 1)]
    names = list(entered)
    for turn, (start, stop) in enumerate(pairwise(stops)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            arm = entered[name]
            synchronize(device)
            began = perf_counter()
            for number in range(start, stop):
                arm.step(number, training.lr * lr_factor(number / steps, training.schedule, training.warmup))
            synchronize(device)
            arm.seconds += perf_counter() - began
            arm.curve.append((arm.seconds, job.accuracy(arm, judge)))
    return entered


def seconds_to(curve: list[tuple[float, float]], accuracy: float) -> float | None:
    """Seconds at the first measurement after the start that is not below ``accuracy``, or None."""
    return next((seconds for seconds, measured in curve[1:] if measured >= accuracy), None)


def _reached(seconds: list[float | None]) -> list[float]:
    return [one for one in seconds if one is not None]


def _median(seconds: list[float | None]) -> float | str:
    return "not reached" if None in seconds else statistics.median(_reached(seconds))


def _reduced(recipe: Recipe, images_per_class: int, batch_size: int) -> Recipe:
    """The recipe at the benchmark's size, with AdamW and no averaged weights."""
    content = recipe.model_dump(mode="json")
    content["data"]["images_per_class"] = images_per_class
    content["training"] |= {"batch_size": batch_size, "optimizer": "adamw", "ema": None, "agnostic": None}
    return Recipe.model_validate(content)


def _arms(job: Job, folder: Path) -> dict[str, Callable[[], Arm]]:
    def checked() -> Arm:
        arm = ours(job, folder / "ours")
        _check_features(job, folder / "ours")
        return arm

    return {
        "open_clip": lambda: open_clip_distillation(job, tuned=False),
        "open_clip, tuned": lambda: open_clip_distillation(job, tuned=True),
        "online L2": lambda: online_l2(job, tuned=False),
        "online L2, tuned": lambda: online_l2(job, tuned=True),
        "ours, L2 alone": lambda: ours(job, folder / "l2", losses={"l2": 1.0}),
        "ours, one view": lambda: ours(job, folder / "one", views=1),
        "ours": checked,
    }


@torch.inference_mode()
def _check_features(job: Job, folder: Path) -> None:
    """Our cached features are those that the online arms learn: the fp32 teacher's of the same views."""
    arrays = [np.load(folder / "0" / f"{name}.npy", mmap_mode="r")[:16] for name in ("pixels", "views", "features")]
    images, views, cached = (torch.from_numpy(array.copy()).to(job.teacher.device) for array in arrays)
    pixels = job.normalised(images, views[:, -1])
    exact: Any = job.exact_teacher.encode_image(pixels, normalize=True)  # type: ignore[operator]
    cosine = float((exact * cached[:, -1].float()).sum(-1).mean())
    if cosine < SAME_FEATURES:
        raise SystemExit(f"the arms do not learn the same features: cosine {cosine}")


if __name__ == "__main__":
    typer.run(main)
