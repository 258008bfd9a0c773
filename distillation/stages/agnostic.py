"""Stage ``agnostic``: phase 1 of the paper, on unlabelled natural photos.

The teacher embeds the photos' views once, into folders laid out like generate shards; then training is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distillation.corpus import Corpus
from distillation.datasets import is_dataset
from distillation.distilling import distil_student, facts_of, load_recipe_teacher
from distillation.distributed import rank, size, wait_for_all
from distillation.embedding import Embedder
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.recipe import Agnostic, Training
from distillation.unlabelled import dataset_photos, source_photos
from models.losses import NEED_CAPTIONS
from models.teachers import TeacherModel

SHARD = 512
HELD_OUT_EVERY = 20
"""One photo in so many is kept for the curve's cosine."""


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``student.safetensors``, ``student.json`` and ``curve.jsonl``."""
    agnostic = request.recipe.training.agnostic
    if agnostic is None:
        raise StageError("internal", "the recipe has no domain-agnostic phase")
    training = _phase(request.recipe.training, agnostic)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_recipe_teacher(request.recipe, device)
    cache = request.out / "checkpoints" / "photos"  # of no use once the student is trained: removed with checkpoints
    cache.mkdir(parents=True, exist_ok=True)
    shards = _embed_photos(request, training, agnostic, teacher, cache, report)
    facts = facts_of(teacher, [])
    del teacher
    corpus = Corpus.open(shards, device)
    start = request.inputs.get("earlier")
    return distil_student(
        request,
        report,
        corpus=corpus,
        training=training,
        teacher=facts,
        earlier=start[0] if start else None,
        head=None,
    )


def _phase(training: Training, agnostic: Agnostic) -> Training:
    """The recipe's training with this phase's length; photos have no captions, so no loss that needs them."""
    losses = {name: weight for name, weight in training.losses.items() if name not in NEED_CAPTIONS}
    epochs = None if agnostic.steps else agnostic.epochs
    length = {"epochs": epochs, "steps": agnostic.steps, "minutes": None}
    return training.model_copy(update={"losses": losses or {"l2": 1.0}, **length})


def _embed_photos(
    request: Request, training: Training, agnostic: Agnostic, teacher: TeacherModel, cache: Path, report: Reporter
) -> list[Path]:
    """Folders of at most ``SHARD`` photos with views and features; those of an earlier attempt are kept.

    Several processes take turns at the folders.
    """
    side = round(teacher.image_size * 8 / 7)
    embedder = Embedder(
        teacher,
        [["a photo"]],  # photos without classes: nothing is ever scored against this head
        on_halved=lambda size: report.warning("batch_halved", f"memory ran out: the teacher sees {size} views at once"),
    )
    photos = _photos(request, agnostic, side)
    folders: list[Path] = []
    done = 0
    while part := list(islice(photos, SHARD)):
        if report.stop_requested:
            raise Interrupted
        folder = cache / f"{len(folders):05d}"
        if len(folders) % size() == rank() and not folder.is_dir():
            _write_shard(np.stack(part), side, done, embedder, training, folder)
        folders.append(folder)
        done += len(part)
        report.progress(done, agnostic.max_images, "photos")
    if done < 2:
        raise StageError(
            "bad_dataset",
            f"{agnostic.source} holds {done} photos; at least 2 are needed",
            "",
            "training.agnostic.source",
        )
    wait_for_all()
    return folders


def _photos(request: Request, agnostic: Agnostic, side: int) -> Iterator[NDArray[np.uint8]]:
    given = request.inputs.get("agnostic_source")
    if given and is_dataset(given[0]):
        return dataset_photos(given[0], agnostic.max_images)
    return source_photos(str(given[0]) if given else agnostic.source, side, agnostic.max_images)


def _write_shard(
    images: NDArray[np.uint8], side: int, first: int, embedder: Embedder, training: Training, folder: Path
) -> None:
    """Write one folder; it appears by a rename, whole."""
    device = embedder.head.device
    pixels = Embedder.shrink(torch.from_numpy(images).to(device), min(side, images.shape[1]))
    seeds = [training.seed * 1_000_003 + first + index for index in range(len(images))]
    views, features = embedder.views(pixels, seeds, training)
    numbers = np.arange(first, first + len(images))
    holdout = numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    whole = np.zeros((len(images), features.shape[-1]), np.float16)  # only held-out photos are seen whole
    if holdout.any():
        whole[holdout] = embedder.whole(pixels[torch.from_numpy(holdout).to(device)]).cpu().numpy()
    arrays = {
        "pixels": pixels.cpu().numpy(),
        "views": views.numpy(),
        "features": features.cpu().numpy().astype(np.float16),
        "whole": whole,
        "labels": np.full(len(images), -1, np.int32),
        "holdout": holdout,
    }
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, array in arrays.items():
        np.save(fresh / f"{name}.npy", array)
    fresh.rename(folder)
