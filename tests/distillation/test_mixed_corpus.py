"""Batches of synthetic images and photos: who comes when, and that the share is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillation import mixed_corpus
from distillation.corpus import Corpus, TrainingBatch
from distillation.mixed_corpus import MixedCorpus
from tests.distillation.test_corpus import write
from tests.distillation.training_folders import CPU

FIRST_PHOTO = 100


def mixed(folder: Path, share: float, *, photo_side: int = 8) -> MixedCorpus:
    """Ten images, numbers below 100, and six photos, numbers from 100 on."""
    images = Corpus.open([write(folder / "images", 0, 15)], CPU)
    photos = Corpus.open([write(folder / "photos", FIRST_PHOTO, 9, side=photo_side)], CPU)
    return MixedCorpus(images, photos, share)


def numbers(batch: TrainingBatch) -> list[int]:
    return [int(number) for number in batch.images[:, 0, 0, 0]]


def photos_in(batch: TrainingBatch) -> int:
    return sum(number >= FIRST_PHOTO for number in numbers(batch))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_the_share_of_photos_is_exact_to_one_image(share: float, tmp_path: Path) -> None:
    corpus = mixed(tmp_path, share)
    seen = photos = 0
    for size in (2, 7, 10, 3, 40):
        batch = corpus.batch(seen, size, seed=0)
        assert len(batch.images) == len(batch.views) == len(batch.features) == batch.count == size
        seen, photos = seen + size, photos + photos_in(batch)
        assert abs(photos - share * seen) <= 1


def test_each_keeps_its_own_epochs(tmp_path: Path) -> None:
    """Half of 20: every one of the ten images once; half of 12: every one of the six photos once."""
    corpus = mixed(tmp_path, 0.5)
    images = [number for number in numbers(corpus.batch(0, 20, seed=0)) if number < FIRST_PHOTO]
    photos = [number for number in numbers(corpus.batch(0, 12, seed=0)) if number >= FIRST_PHOTO]
    assert sorted(images) == [number for number in range(15) if number % 3]
    assert sorted(photos) == [number for number in range(100, 109) if number % 3]
    assert corpus.count == 20


def test_what_is_gathered_belongs_together(tmp_path: Path) -> None:
    batch = mixed(tmp_path, 0.4).batch(3, 30, seed=1)
    number = batch.images[:, 0, 0, 0].float()
    torch.testing.assert_close(batch.views[:, 0], number + (batch.features[:, 0] - number) / 5)


def test_a_resumed_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    corpus = mixed(tmp_path, 0.3)
    whole = numbers(corpus.batch(0, 24, seed=3))
    parts = numbers(corpus.batch(0, 9, seed=3)) + numbers(corpus.batch(9, 15, seed=3))
    assert sorted(whole) == sorted(parts)


def test_several_processes_share_what_one_would_have_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = mixed(tmp_path, 0.3)
    whole = numbers(corpus.batch(5, 11, seed=0))
    parts: list[int] = []
    for own in (slice(0, 4), slice(4, 11)):
        monkeypatch.setattr(mixed_corpus, "own_rows", lambda _count, own=own: own)
        parts += numbers(corpus.batch(5, 11, seed=0))
    assert sorted(parts) == sorted(whole)


def test_photos_of_another_side_are_resized(tmp_path: Path) -> None:
    """Also where a batch holds none of them."""
    corpus = mixed(tmp_path, 0.1, photo_side=5)
    sides = [corpus.batch(seen, 2, seed=0).images.shape[1:] for seen in range(0, 20, 2)]
    assert set(sides) == {(8, 8, 3)}


def test_held_out_are_the_images(tmp_path: Path) -> None:
    labels = [label for _, _, part in mixed(tmp_path, 0.5).holdout(100) for label in part.tolist()]
    assert labels == [0, 3, 6, 9, 12]
