"""Stage ``embed``: what the domain-agnostic phase learns from, embedded once for all students of a teacher.

Folders ``00000``, ``00001`` ... of photos with their views and the teacher's features, laid out like generate shards.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.datasets import is_dataset
from distillation.distilling import load_recipe_teacher
from distillation.distributed import rank, size, wait_for_all
from distillation.embedding import Embedder
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.recipe import Agnostic, Training
from distillation.unlabelled import dataset_photos, source_photos

SHARD = 512
HELD_OUT_EVERY = 20
"""One photo in so many is kept for the curve's cosine."""


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write the folders; those of an earlier attempt are kept. Several processes take turns at them."""
    agnostic = request.recipe.training.agnostic
    if agnostic is None:
        raise StageError("internal", "the recipe has no domain-agnostic phase")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_recipe_teacher(request.recipe, device)
    side = round(teacher.image_size * 8 / 7)
    embedder = Embedder(
        teacher,
        [["a photo"]],  # photos without classes: nothing is ever scored against this head
        on_halved=lambda size: report.warning("batch_halved", f"memory ran out: the teacher sees {size} views at once"),
    )
    photos, most = given_photos(request, agnostic, side)
    folders = done = embedded = 0
    began = time.monotonic()
    while part := list(islice(photos, SHARD)):
        if report.stop_requested:
            raise Interrupted
        folder = request.out / f"{folders:05d}"
        if folders % size() == rank() and not folder.is_dir():
            _write_shard(np.stack(part), side, done, embedder, request.recipe.training, folder)
            embedded += len(part)
        folders += 1
        done += len(part)
        report.progress(done, most, "photos")
    if done < 2:
        raise StageError(
            "bad_dataset",
            f"{agnostic.source} holds {done} photos; at least 2 are needed",
            "",
            "training.agnostic.source",
        )
    wait_for_all()
    views = embedded * size() * request.recipe.training.views  # all processes have about the same share
    return {"photos": done, "views_per_s": round(views / max(time.monotonic() - began, 1e-9), 2)}


def photo_folders(stage: Path) -> list[Path]:
    """The folders that this stage left, in order."""
    return sorted(path for path in stage.iterdir() if path.is_dir() and path.name.isdecimal())


def given_photos(request: Request, agnostic: Agnostic, side: int) -> tuple[Iterator[NDArray[np.uint8]], int]:
    """Photos of a dataset directory, files or URLs, uint8 ``(side, side, 3)``, and how many there are at most."""
    given = request.inputs.get("agnostic_source")
    if given and is_dataset(given[0]):
        return dataset_photos(given[0], agnostic.max_images)
    source = str(given[0]) if given else agnostic.source
    return source_photos(source, side, agnostic.max_images), agnostic.max_images


def _write_shard(
    images: NDArray[np.uint8], side: int, first: int, embedder: Embedder, training: Training, folder: Path
) -> None:
    """Write one folder; it appears by a rename, whole."""
    device = embedder.head.device
    pixels = Embedder.resize(torch.from_numpy(images).to(device), min(side, images.shape[1]))
    seeds = [training.seed * 1_000_003 + first + index for index in range(len(images))]
    views, features = embedder.views(pixels, embedder.whole(pixels), seeds, training)
    numbers = np.arange(first, first + len(images))
    arrays = {
        "pixels": pixels.cpu().numpy(),
        "views": views.numpy(),
        "features": features.cpu().numpy().astype(np.float16),
        "labels": np.full(len(images), -1, np.int32),
        "holdout": numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1,
    }
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, array in arrays.items():
        np.save(fresh / f"{name}.npy", array)
    fresh.rename(folder)
