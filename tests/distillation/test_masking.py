"""Masked views: how many patches go, which, and what the student's second forward leaves alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from distillation.corpus import Corpus
from distillation.distilling import facts_of
from distillation.views import mask_patches
from models.teachers import load_teacher
from tests.distillation.training_folders import CPU, new_trainer, training, write_training_shards


def masked(seed: int, size: tuple[int, int] = (64, 64), ratio: float = 0.75, patch: int = 16) -> np.ndarray:
    pixels = torch.ones(5, 3, *size)
    found = mask_patches(pixels, ratio, patch, torch.Generator().manual_seed(seed))
    assert found.shape == pixels.shape and bool((pixels == 1).all())
    return found.numpy()


def test_it_masks_whole_patches_and_as_many_as_asked() -> None:
    for image in masked(0):
        patches = image.reshape(3, 4, 16, 4, 16)
        shown = patches.mean((0, 2, 4))
        assert set(np.unique(shown)) == {0.0, 1.0} and shown.sum() == 4  # 12 of 16 are gone


def test_it_depends_on_the_seed_alone_and_differs_between_images() -> None:
    first = masked(0)
    assert np.array_equal(first, masked(0)) and not np.array_equal(first, masked(1))
    assert len({image.tobytes() for image in first}) > 1


def test_visible_pixels_are_the_images_own() -> None:
    pixels = torch.randn(4, 3, 32, 32)
    found = mask_patches(pixels, 0.5, 8, torch.Generator().manual_seed(3))
    visible = found != 0
    assert torch.equal(found[visible], pixels[visible]) and visible.float().mean() == 0.5


@pytest.mark.parametrize(("size", "cells"), [((72, 40), 15), ((16, 16), 1), ((10, 10), 1)])
def test_sizes_that_are_no_multiple_and_something_stays_visible(size: tuple[int, int], cells: int) -> None:
    found = masked(0, size)
    corners = found[:, 0, ::16, ::16].reshape(5, -1)
    assert corners.shape[1] == cells
    assert (corners.sum(1) == cells - min(round(0.75 * cells), cells - 1)).all()


def test_the_masked_forward_leaves_running_statistics_alone(teacher_folder: Path, tmp_path: Path) -> None:
    """The batch normalisation of a student with ``mfd`` has seen what that of one without has, and it does learn."""
    shards = write_training_shards(tmp_path, teacher_folder)
    corpus = Corpus.open(shards, CPU)
    teacher = facts_of(load_teacher(str(teacher_folder)), [])
    trainers = {name: new_trainer(corpus, teacher, training(losses={name: 1.0})) for name in ("mfd", "mse")}
    losses = {name: item.step(corpus.batch(0, 8, 0), 0, 1e-3).item() for name, item in trainers.items()}
    assert math.isfinite(losses["mfd"]) and losses["mfd"] != losses["mse"]
    plain = dict(trainers["mse"].student.named_buffers())
    assert any("running_mean" in name for name in plain)
    for name, buffer in trainers["mfd"].student.named_buffers():
        assert torch.equal(buffer, plain[name]), name
    fresh = dict(new_trainer(corpus, teacher, training()).student.named_parameters())
    assert any(not torch.equal(p, fresh[name]) for name, p in trainers["mfd"].student.named_parameters())
