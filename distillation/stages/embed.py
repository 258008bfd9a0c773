"""Stage ``embed``: what the domain-agnostic phase learns from, embedded once for all students of a teacher.

Folders ``00000``, ``00001`` ... of photos with their views and the teacher's features, laid out like generate shards.
Each is made of the next ``SHARD`` photos of the source, and is smaller where some of them are broken.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.datasets import is_dataset
from distillation.distilling import load_recipe_teacher
from distillation.distributed import rank, size, wait_for_all
from distillation.embedding import Embedder
from distillation.photo_decoding import decode_photos
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.recipe import Agnostic, Training
from distillation.teachers import stored_side
from distillation.unlabelled import dataset_photos, encoded_photos

SHARD = 512
HELD_OUT_EVERY = 20
"""One photo in so many is kept for the curve's cosine."""


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write the folders; those of an earlier attempt are kept. Several processes take turns at them.

    Every process reads the whole source, but decodes its own folders' photos alone.
    """
    agnostic = request.recipe.training.agnostic
    if agnostic is None:
        raise StageError("internal", "the recipe has no domain-agnostic phase")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_recipe_teacher(request.recipe, device)
    side = stored_side(teacher.image_size)
    embedder = Embedder(
        teacher,
        [["a photo"]],  # photos without classes: nothing is ever scored against this head
        on_halved=lambda size: report.warning("batch_halved", f"memory ran out: the teacher sees {size} views at once"),
    )
    given = given_photos(request, agnostic, side)
    done = embedded = 0
    began = time.monotonic()
    for number in count():
        if report.stop_requested:
            raise Interrupted
        folder, group = request.out / f"{number:05d}", islice(given.photos, SHARD)
        if number % size() == rank() and not folder.is_dir():
            decoded = list(given.decode(group))
            readable = {done + place: pixels for place, pixels in enumerate(decoded) if pixels is not None}
            if readable:
                _write_shard(readable, side, embedder, request.recipe.training, folder)
            embedded += len(readable)
            found = len(decoded)
        else:
            found = sum(1 for _ in group)
        done += found
        report.progress(done, given.most, "photos")
        if found < SHARD:
            break
    wait_for_all()
    seconds = max(time.monotonic() - began, 1e-9)
    # Other processes' folders and those of an earlier attempt too.
    kept = sum(len(np.load(folder / "labels.npy", mmap_mode="r")) for folder in photo_folders(request.out))
    if kept < 2:
        raise StageError(
            "bad_dataset",
            f"{agnostic.source} holds {kept} readable photos; at least 2 are needed",
            "photos are JPEG, PNG or WEBP files",
            "training.agnostic.source",
        )
    views = embedded * size() * request.recipe.training.views  # all processes have about the same share
    return {"photos": kept, "views_per_s": round(views / seconds, 2)}


def photo_folders(stage: Path) -> list[Path]:
    """The folders that this stage left, in order."""
    return sorted(path for path in stage.iterdir() if path.is_dir() and path.name.isdecimal())


class Given(NamedTuple):
    """The photos of a source.

    Args:
        photos: in the source's order, not decoded.
        decode: pixels uint8 ``(side, side, 3)`` of some of them, in their order; None for a broken one.
        most: how many there are at most.
    """

    photos: Iterator[Any]
    decode: Callable[[Iterator[Any]], Iterator[NDArray[np.uint8] | None]]
    most: int


def given_photos(request: Request, agnostic: Agnostic, side: int) -> Given:
    """Photos of a dataset directory, files or URLs; those of files are decoded to squares of ``side``."""
    given = request.inputs.get("agnostic_source")
    if given and is_dataset(given[0]):
        photos, most = dataset_photos(given[0], agnostic.max_images)
        return Given(photos, lambda mapped: mapped, most)  # read when they are stacked
    source = str(given[0]) if given else agnostic.source
    encoded = encoded_photos(source, agnostic.max_images)
    return Given(encoded, lambda part: (photo.pixels for photo in decode_photos(part, side)), agnostic.max_images)


def _write_shard(
    photos: dict[int, NDArray[np.uint8]], side: int, embedder: Embedder, training: Training, folder: Path
) -> None:
    """Write one folder, of photos by their place in the source; it appears by a rename, whole."""
    device, numbers = embedder.head.device, np.array(list(photos))
    images = torch.from_numpy(np.stack(list(photos.values()))).to(device)
    pixels = Embedder.resize(images, min(side, images.shape[1]))
    seeds = [training.seed * 1_000_003 + number for number in photos]
    views, features = embedder.views(pixels, embedder.whole(pixels), seeds, training)
    arrays = {
        "pixels": pixels.cpu().numpy(),
        "views": views.numpy(),
        "features": features.cpu().numpy().astype(np.float16),
        "labels": np.full(len(numbers), -1, np.int32),
        "holdout": numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1,
    }
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, array in arrays.items():
        np.save(fresh / f"{name}.npy", array)
    fresh.rename(folder)
