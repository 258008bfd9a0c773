"""Hand-made outputs of the generate and distil stages around a tiny teacher."""

from __future__ import annotations

import colorsys
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from distillation.protocol import Reporter, Request
from distillation.recipe import Recipe
from distillation.views import apply_views, whole_views
from models.students import build_student, count_macs, count_params, student_config
from models.teachers import TeacherModel, load_teacher

NAMES = ("red", "green", "blue")
PER_CLASS = 12
SIDE = 72


def recipe(teacher: str, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "domain": {"name": "Colours", "classes": [*NAMES]},
        "student": {"architecture": "test_resnet", "image_size": 48},
        "teacher": {"model": f"local-dir:{teacher}", "licence": "cc-by-4.0"},
        "data": {"images_per_class": PER_CLASS, "holdout": 0.34},
        "evaluation": {"latency": False},
    }
    for name, value in changes.items():
        content.setdefault(name, {}).update(value)
    return Recipe.model_validate(content)


def coloured_images(seed: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of three hues, uint8 ``(n, side, side, 3)``, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(NAMES)), PER_CLASS)
    hues = [np.array(colorsys.hsv_to_rgb(i / len(NAMES), 0.9, 0.8)) for i in range(len(NAMES))]
    images = [255 * hues[label] + rng.normal(0, 30, (side, side, 3)) for label in labels]
    return np.stack(images).clip(0, 255).astype(np.uint8), labels.astype(np.int32)


def write_shard(folder: Path, teacher: TeacherModel, seed: int) -> Path:
    """One generate shard, every third image of it held out."""
    folder.mkdir()
    images, labels = coloured_images(seed, SIDE)
    pixels = apply_views(
        torch.from_numpy(images),
        whole_views(len(images)),
        teacher.image_size,
        torch.tensor(teacher.mean),
        torch.tensor(teacher.std),
    )
    np.save(folder / "pixels.npy", images)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "holdout.npy", np.arange(len(labels)) % 3 == seed % 3)
    np.save(folder / "features.npy", teacher.encode_image(pixels).numpy().astype(np.float16)[:, None])
    rows = [{"class": NAMES[label], "prompt": f"a photo of a {NAMES[label]}, at night"} for label in labels]
    (folder / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dropped = {"disagrees": 3, "near_constant": 1}
    _manifest(folder, {"images": len(labels), "dropped": dropped, "images_per_s": 20.0, "teacher_acc1": 0.75})
    return folder


def write_student(folder: Path, teacher: TeacherModel, wanted: Recipe) -> Path:
    """A student with random weights and settled batch-norm statistics."""
    folder.mkdir()
    torch.manual_seed(1)
    architecture, size = wanted.student.architecture, wanted.student.image_size
    assert architecture is not None and size is not None
    config = student_config(architecture, size, teacher.model_cfg)
    student = build_student(config).train()
    with torch.no_grad():
        for _ in range(8):
            student(torch.randn(16, 3, size, size))
    student.eval()
    save_file(
        {name: value.contiguous() for name, value in student.state_dict().items()}, folder / "student.safetensors"
    )
    described = {
        "architecture": architecture,
        "image_size": size,
        "embed_dim": teacher.embed_dim,
        "init": "scratch",
        "model_cfg": config,
        "params": count_params(student),
        "macs": count_macs(student, size),
    }
    (folder / "student.json").write_text(json.dumps(described))
    _manifest(folder, {"steps": 10, "images_per_s": 100.0, "loss": 0.5, "holdout_cosine": 0.7})
    return folder


def stage_inputs(folder: Path, wanted: Recipe) -> dict[str, list[Path]]:
    """Two shards and a student for ``wanted``."""
    teacher = load_teacher(wanted.teacher.model)
    shards = [write_shard(folder / f"generate-{seed}", teacher, seed) for seed in range(2)]
    return {"generate": shards, "distil": [write_student(folder / "distil", teacher, wanted)]}


def run_stage(stage: Any, name: str, wanted: Recipe, inputs: dict[str, list[Path]], out: Path) -> tuple[Any, list[Any]]:
    """Run a stage in this process; its summary and the events it wrote."""
    out.mkdir(exist_ok=True)
    stream = io.StringIO()
    summary = stage.run(Request(name, 0, "0" * 64, wanted, inputs, out), Reporter(stream=stream))
    return summary, [json.loads(line) for line in stream.getvalue().splitlines()]


def _manifest(folder: Path, summary: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps({"summary": summary}))
