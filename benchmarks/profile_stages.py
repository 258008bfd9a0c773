"""Where the time of a job goes: each stage of a small job under torch's profiler, operators summed by what they do.

    python -m benchmarks.profile_stages [--images 200] [--steps 100]

The job is run once as the product runs it, then each stage twice in this process on the same inputs, the second time
profiled: imports are left out, loading of models is not. The profiler itself takes time, most where operators are
small: shares are for finding what to look at, not for quoting rates.
"""

from __future__ import annotations

import io
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from benchmarks.cold_start import recipe_of, requests_of
from benchmarks.harness import print_table, write_json
from distillation.pipeline import run_recipe
from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe
from distillation.runner import run_stage

FAMILIES = {
    "convolutions": r"conv",
    "matrix products, attention": r"mm$|addmm|bmm|linear|matmul|attention",
    "normalisation": r"norm",
    "crops and resizing": r"grid_sampl|upsample|interpolate|pool",
    "optimiser and averages": r"adam|lerp|foreach|sgd|lion",
    "copies and casts": r"copy_|_to_copy|contiguous|cat$|stack|index|gather|empty|zero|fill|clone",
    "random numbers": r"rand|normal_|uniform_|bernoulli",
}
OTHER, OUTSIDE = "other operators", "outside torch: loading, files, JPEG, onnxruntime, Python"


def main(
    images: Annotated[int, typer.Option(min=8, help="Images of each of the two classes.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, of 128 images.")] = 100,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
) -> None:
    content = recipe_of(images, steps, seed=0)
    content["training"]["batch_size"] = batch_size
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as name:
        first = Path(name) / "job"
        run_recipe(Recipe.model_validate(content), first, lambda task, event: None)
        found = {stage: _profiled(Request.read(file), Path(name) / stage) for stage, file in requests_of(first)}
    families = [*FAMILIES, OTHER, OUTSIDE]
    print_table(
        f"share of each stage's time, %: {2 * images} images, {steps} steps of {batch_size}",
        ["what", *found],
        [[family, *(f"{100 * one[family] / sum(one.values()):.0f}" for one in found.values())] for family in families]
        + [["seconds", *(f"{sum(one.values()):.1f}" for one in found.values())]],
    )
    write_json("profile_stages", {"images": 2 * images, "steps": steps, "batch_size": batch_size, "seconds": found})


def _profiled(request: Request[Any], out: Path) -> dict[str, float]:
    """Seconds of each family in one stage."""
    gpu = torch.cuda.is_available()
    run_stage(replace(request, out=out / "first"), Reporter(io.StringIO()))
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        run_stage(replace(request, out=out / "profiled"), Reporter(io.StringIO()))
        torch.cuda.synchronize() if gpu else None
        seconds = time.perf_counter() - began
    found = dict.fromkeys([*FAMILIES, OTHER], 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if gpu else event.self_cpu_time_total
        if event.key.startswith("aten::") or "backward" in event.key.lower():
            found[family(event.key)] += spent / 1e6
    return {**found, OUTSIDE: max(0.0, seconds - sum(found.values()))}


def family(operator: str) -> str:
    """What an operator does, by its name."""
    name = operator.lower()
    return next((one for one, pattern in FAMILIES.items() if re.search(pattern, name)), OTHER)


if __name__ == "__main__":
    typer.run(main)
