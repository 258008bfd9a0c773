"""The starter generator as a recipe may ask for it, and the command that trains it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from distillation.recipe_data import Generator
from starter.generator import train_starter_generator


def test_recipes_ask_the_starter_for_one_step() -> None:
    assert (Generator().steps, Generator().guidance) == (1, 0.0)
    assert Generator(model="./other").steps == 8
    with pytest.raises(ValidationError, match="one step without guidance"):
        Generator(steps=4)


def test_the_command_trains_on_its_classes_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "classes.tsv").write_text("label\tnames\n0\tlemon, Citrus limon\n1\tlion\n2\ttractor, dozer, machine\n")
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    photos = [{"bytes": _jpeg(pixels), "path": f"{number}.jpg"} for number, pixels in enumerate(noise)]
    pq.write_table(pa.table({"image": photos, "label": [0, 1, 2] * 4}), data / "train-0.parquet")
    out, work = tmp_path / "weights", tmp_path / "work"
    out.mkdir()
    (out / "old").touch()
    train_starter_generator(data, out, work, labels=[0, 2], steps=1, batch_size=8, seed=0, base=None)
    report = json.loads((out / "report.json").read_text())
    assert (report["classes"], report["photos"]["held_out"], report["size"]) == (2, 2, 64)
    assert 4 <= report["photos"]["training"] <= 6  # half of each class, and what else the teacher recognises
    assert list(report["per_class"]) == ["lemon", "tractor"]
    assert (out / "model_index.json").is_file() and not (out / "old").exists()


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()
