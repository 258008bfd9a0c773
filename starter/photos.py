"""Tiny ImageNet for the starter weights: parquet in, one uint8 array out. Training data only; never shipped."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Photos:
    """Photos of one split: ``images`` uint8 ``(n, 64, 64, 3)``, ``labels`` int64 ``(n,)``."""

    images: np.ndarray
    labels: np.ndarray


def class_names(data: Path) -> list[list[str]]:
    """Synonyms of each class, the usual name first, in label order (from ``classes.tsv``)."""
    with (data / "classes.tsv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["label"]))
    return [[name.strip() for name in row["names"].split(",")] for row in rows]


def load_photos(data: Path, split: str) -> Photos:
    """Decode every parquet file of ``split`` (``train`` or ``validation``)."""
    images, labels = [], []
    for path in sorted(data.glob(f"{split}*.parquet")):
        table = pq.read_table(path)
        for row in table.column("image").to_pylist():
            with Image.open(io.BytesIO(row["bytes"])) as image:
                images.append(np.asarray(image.convert("RGB")))
        labels.append(table.column("label").to_numpy())
    if not images:
        raise FileNotFoundError(f"no {split}*.parquet under {data}")
    return Photos(np.stack(images), np.concatenate(labels).astype(np.int64))


@contextmanager
def files_of_classes(data: Path, split: str, labels: Collection[int], scratch: Path) -> Iterator[Path]:
    """A folder ``scratch`` of one split's photos of some classes only, in the form of ``data``; gone afterwards."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    shutil.copyfile(data / "classes.tsv", scratch / "classes.tsv")
    for path in sorted(data.glob(f"{split}*.parquet")):
        table = pq.read_table(path)
        kept = pc.is_in(table["label"], pa.array(sorted(labels), table["label"].type))
        pq.write_table(table.filter(kept), scratch / path.name)
    yield scratch
    shutil.rmtree(scratch)
