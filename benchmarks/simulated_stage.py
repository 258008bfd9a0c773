"""SIMULATION: a stage's process that makes no image and trains nothing, but leaves files of the right names and shapes.

The service runs it in place of the real stages (``STILLROOM_STAGE_ENTRY``), see ``benchmarks.simulated_job``. Rows,
prompts and labels are the recipe's own; pixels and features are zeros, a few to the image. What reads all shards of a
job is the product's own code: the training corpus, the held-out images.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import Image
from distillation.prompts import domain_prompts
from distillation.protocol import Reporter, Request, write_manifest
from distillation.sampling_plan import describe_rows, shard_rows

SMALL = Image(side=4, views=1, width=8)
ENCODER = ("open_clip_config.json", "open_clip_model.safetensors", "labels.json", "README.md")


def main(request_file: Path) -> int:
    """Run the stage that the request names."""
    began, report = time.monotonic(), Reporter()
    request: Request = Request.read(request_file)
    request.out.mkdir(parents=True, exist_ok=True)
    summary = {"simulated": True, **STAGES[request.stage](request)}
    report.progress(1, 1, "simulated")
    write_manifest(request, summary, time.monotonic() - began)
    report.done(summary)
    return 0


def prompts(request: Request) -> dict[str, Any]:
    classes = domain_prompts(request.recipe.domain, request.recipe.data.prompts)
    (request.out / "prompts.json").write_text(json.dumps({"classes": classes, "source": "recipe"}))
    return {"classes": len(classes)}


def generate(request: Request) -> dict[str, Any]:
    """One shard, all of whose rows are kept."""
    recipe, out = request.recipe, request.out
    classes = json.loads((request.inputs["prompts"][0] / "prompts.json").read_text())["classes"]
    rows = shard_rows(recipe, classes, request.shard)
    shapes = {
        "pixels": ((SMALL.side, SMALL.side, 3), np.uint8),
        "views": ((SMALL.views, 5), np.float32),
        "features": ((SMALL.views, SMALL.width), np.float16),
    }
    for name, (shape, kind) in shapes.items():
        array = np.zeros((len(rows), *shape), kind)
        array.reshape(-1)[0] = request.shard % 251  # else equal files of two shards would be one blob
        np.save(out / f"{name}.npy", array)
    np.save(out / "labels.npy", np.array([row.label for row in rows], np.int32))
    np.save(out / "holdout.npy", np.array([row.holdout for row in rows], np.bool_))
    (out / "images.tar").write_bytes(b"\0" * len(rows))
    lines = describe_rows(recipe, "simulated/generator", rows, [1] * len(rows))
    (out / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if rows[0].index < len(classes):
        _samples(out, [line for line in lines if line["index"] < 2 * len(classes)])
    return {"images": len(rows)}


def _samples(out: Path, lines: list[dict[str, Any]]) -> None:
    (out / "samples").mkdir(exist_ok=True)
    for line in lines:
        (out / "samples" / f"{line['index']:08d}.jpg").write_bytes(str(line["index"]).encode())
    (out / "samples.json").write_text(json.dumps(lines))


def distil(request: Request) -> dict[str, Any]:
    """Opens the real training corpus and draws one batch of it; the student is a name."""
    import torch

    from distillation.corpus import Corpus
    from distillation.protocol import peak_memory
    from distillation.runner import allow_many_files

    allow_many_files()
    before = peak_memory()
    corpus = Corpus.open(request.inputs["generate"], torch.device("cpu"), with_captions=True)
    for epoch in range(2):
        batch = corpus.batch(epoch * corpus.count, min(corpus.count, 128), 0)
    for name in ("student.safetensors", "student.json", "curve.jsonl"):
        (request.out / name).write_text(f"{name} {request.key}")
    used = {"memory": peak_memory() - before, "open_files": _mapped(corpus)}
    return {"images": corpus.count, "batch": len(batch.images), "captions": len(corpus.captions), **used}


def _mapped(corpus: Any) -> int:
    return sum(len(arrays) for arrays in corpus.shards)


def evaluate(request: Request) -> dict[str, Any]:
    """Reads the real lists of held-out images and their cached features."""
    from distillation.image_sets import cached_teacher_features, synthetic_images

    held_out = synthetic_images(request.inputs["generate"], holdout=True)
    features = cached_teacher_features(request.inputs["generate"], held_out.sample(1000, 0))
    (request.out / "report.json").write_text(json.dumps({"domain": request.recipe.domain.name, "gap": None}))
    return {"images": len(held_out), "features": len(features)}


def export(request: Request) -> dict[str, Any]:
    (request.out / "encoder").mkdir(exist_ok=True)
    for name in ENCODER:
        (request.out / "encoder" / name).write_text(f"{name} {request.key}")
    (request.out / "report.json").write_text(json.dumps({"domain": request.recipe.domain.name, "simulated": True}))
    return {}


STAGES = {"prompts": prompts, "generate": generate, "distil": distil, "evaluate": evaluate, "export": export}
