"""A small job's stages, one fresh Python process for each, against ours, which are forked from one that has imported.

    python -m benchmarks.cold_start [--images 40] [--steps 10] [--rounds 7] [--service-jobs 3]

All arms run the same stages of one job with the starter weights into empty folders, and must end with the same student,
byte for byte. Arms:

- `fresh processes`: `python -m distillation stage` for each stage, in turn; each imports what its stage needs, no more.
- `one command`: `python -m distillation run`, whole: its imports, the forking process's imports once, the stages.
- `a worker`: the stages as a running worker starts them; its forking process has imported everything beforehand.

The limit is the sum of the stages' own seconds. No model stays loaded from one stage to the next: the processes are
forked, and what a stage leaks or leaves on a GPU goes with its process. Loading is in the stages' own seconds.

Then the service itself: seconds from `POST /v1/jobs` to the first image, to the first training step and to the end, for
the first job after the service says that it is ready, and for later jobs with new seeds, which can reuse nothing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from stillroom.client import Stillroom

from benchmarks.harness import Ratio, console, interleaved, matmul_flops, print_table, ratio, write_json
from demo.service import embedded_service
from distillation.pipeline import run_recipe
from distillation.plan import STAGES
from distillation.protocol import file_sha256
from distillation.recipe import Recipe

STAGE_COMMAND = [sys.executable, "-m", "distillation", "stage"]
Seconds = dict[str, float]


def main(
    images: Annotated[int, typer.Option(min=8, help="Images of each of the two classes.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 10,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    service_jobs: Annotated[int, typer.Option(min=0, help="Jobs sent to the service; 0 leaves it out.")] = 4,
) -> dict[str, Ratio]:
    content = recipe_of(images, steps, seed=0)
    flops = matmul_flops(torch.float32)
    with tempfile.TemporaryDirectory(prefix="bench-cold-start-") as name:
        folder = Path(name)
        file, numbers = folder / "recipe.json", count()
        file.write_text(json.dumps(content), encoding="utf-8")
        recipe, latest = Recipe.model_validate(content), {}
        first = folder / "first"
        run_recipe(recipe, first, lambda task, event: None)

        def fresh() -> None:
            latest["fresh processes"] = out = folder / f"fresh-{next(numbers)}"
            _run_fresh(first, out)

        def command() -> None:
            latest["one command"] = out = folder / f"command-{next(numbers)}"
            run = [sys.executable, "-m", "distillation", "run", str(file), "--out", str(out)]
            subprocess.run(run, check=True, capture_output=True)

        def worker() -> None:
            latest["a worker"] = out = folder / f"worker-{next(numbers)}"
            run_recipe(recipe, out, lambda task, event: None)

        seconds = interleaved({"fresh processes": fresh, "one command": command, "a worker": worker}, rounds)
        _check_same([first, *latest.values()])
        stages = {arm: _stage_seconds(out) for arm, out in latest.items()}
        service = list(_service(folder, images, steps, service_jobs))

    ratios = {arm: ratio(seconds["fresh processes"], values) for arm, values in seconds.items()}
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    limit = sum(stages["a worker"].values())
    print_table(
        f"{len(stages['a worker'])} stages of a small job",
        ["arm", "seconds", "faster than fresh processes", "the stages' own seconds", "goal"],
        [[arm, medians[arm], ratios[arm], sum(stages[arm].values()), ">= 3x"] for arm in seconds],
    )
    print_table(
        "the stages' own seconds, loading included",
        ["stage", *stages],
        [[stage, *(f"{stages[arm][stage]:.2f}" for arm in stages)] for stage in stages["a worker"]],
    )
    if service:
        print_table(
            "the service: seconds from POST",
            ["job", "first image", "first training step", "end"],
            [[number, *one.values()] for number, one in enumerate(service, 1)],
        )
    write_json(
        "cold_start",
        {
            "images_per_class": images,
            "steps": steps,
            "rounds": rounds,
            "matmul_flops": flops,
            "seconds": medians,
            "ratios": {arm: value._asdict() for arm, value in ratios.items() if arm != "fresh processes"},
            "stage_seconds": stages,
            "share_of_limit": limit / medians["a worker"],
            "service_seconds": service,
        },
    )
    return {arm: value for arm, value in ratios.items() if arm != "fresh processes"}


def recipe_of(images: int, steps: int, seed: int) -> dict[str, Any]:
    """Two foods with the starter weights; nothing is left out but int8, which needs more images than these."""
    return {
        "domain": {"name": "Food", "classes": ["lemon", "pizza"]},
        "student": {"size": "s"},
        "data": {"images_per_class": images, "holdout": 0.2, "seed": seed},
        "training": {"steps": steps, "batch_size": 16, "seed": seed},
        "evaluation": {"latency": False},
        "exports": {"int8": False},
    }


def requests_of(example: Path) -> list[tuple[str, Path]]:
    """Stage and request file of each task of a job that ``run_recipe`` ran, in order."""
    files = [(_stage_of(file), file) for file in example.glob("stages/*/request.json")]
    return sorted(files, key=lambda item: STAGES.index(item[0]))


def _run_fresh(example: Path, out: Path) -> None:
    """The stages of the job in ``example``, into ``out``, with the same requests but for the folders' names."""
    for _, request in requests_of(example):
        mine = out / request.relative_to(example)
        mine.with_name("out").mkdir(parents=True)
        mine.write_text(request.read_text(encoding="utf-8").replace(str(example), str(out)), encoding="utf-8")
        subprocess.run([*STAGE_COMMAND, str(mine)], check=True, capture_output=True)


def _stage_of(file: Path) -> str:
    return file.parent.name.partition("-")[0]


def _check_same(folders: list[Path]) -> None:
    """All arms have trained the same student.

    Raises:
        SystemExit: their weights differ.
    """
    hashes = {file_sha256(file) for out in folders for file in out.glob("stages/distil-*/out/student.safetensors")}
    if len(hashes) != 1:
        raise SystemExit(f"the arms do not train the same student: {len(hashes)} different ones")


def _stage_seconds(out: Path) -> Seconds:
    """What each stage says it took, from its first line to its manifest; a fresh one imports within that time."""
    manifests = sorted(out.glob("stages/*/out/manifest.json"))
    found = {_stage_of(file.parent): json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in manifests}
    return {stage: found[stage] for stage in STAGES if stage in found}


def _service(folder: Path, images: int, steps: int, jobs: int) -> Iterator[Seconds]:
    """Seconds from the request to the first image, the first step and the end, of jobs sent one after the other."""
    if not jobs:
        return
    home = folder / "home"
    home.mkdir()
    with embedded_service(home, folder / "service.log") as url, Stillroom(url) as client:
        for number in range(jobs):
            began = time.time()
            job = client.submit(recipe_of(images, steps, seed=number + 1))
            client.wait(job["id"])
            ended = time.time()
            first: Seconds = {}
            for event in client.events(job["id"]):
                done = (event.get("data") or {}).get("done", 0)
                if event["type"] == "progress" and done > 0:
                    first.setdefault(str(event.get("stage")), datetime.fromisoformat(event["at"]).timestamp())
            console.print(f"service: job {number + 1} done")
            yield {
                "first_image": first["generate"] - began,
                "first_step": first["distil"] - began,
                "end": ended - began,
            }


if __name__ == "__main__":
    typer.run(main)
