"""The training corpus: which image comes when, and that what is gathered belongs together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distillation.corpus import Corpus
from tests.distillation.training_folders import CPU


def write(folder: Path, first: int, count: int, *, side: int = 8, held_out: int = 3) -> Path:
    """Images whose every pixel, view and feature says who they are; every ``held_out``-th is held out."""
    folder.mkdir()
    number = np.arange(first, first + count)
    np.save(
        folder / "pixels.npy", np.broadcast_to(number[:, None, None, None], (count, side, side, 3)).astype(np.uint8)
    )
    view = np.arange(2)
    np.save(
        folder / "views.npy",
        np.broadcast_to((number[:, None] + view / 10)[..., None], (count, 2, 5)).astype(np.float32),
    )
    np.save(
        folder / "features.npy",
        np.broadcast_to((number[:, None] + view / 2)[..., None], (count, 2, 4)).astype(np.float16),
    )
    np.save(folder / "labels.npy", number.astype(np.int32))
    np.save(folder / "holdout.npy", number % held_out == 0)
    (folder / "images.jsonl").write_text("".join(f'{{"prompt": "image {n % 2}"}}\n' for n in number))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus.open([write(tmp_path / "a", 0, 9), write(tmp_path / "b", 9, 6)], CPU, with_captions=True)


def test_an_epoch_shows_every_training_image_once(corpus: Corpus) -> None:
    assert corpus.count == 10
    numbers = corpus.batch(0, 10, seed=0).images[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == [n for n in range(15) if n % 3]
    assert corpus.batch(10, 10, seed=0).images[:, 0, 0, 0].tolist() != numbers.tolist()


def test_what_is_gathered_belongs_together(corpus: Corpus) -> None:
    batch = corpus.batch(0, 10, seed=0)
    number = batch.images[:, 0, 0, 0].float()
    view = (batch.features[:, 0] - number) * 2
    assert set(view.tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(batch.views[:, 0], number + view / 10)
    assert batch.caption is not None
    assert [corpus.captions[i] for i in batch.caption] == [f"image {int(n) % 2}" for n in number]


def test_every_view_is_shown(corpus: Corpus) -> None:
    def view_of(epoch: int) -> dict[float, float]:
        batch = corpus.batch(10 * epoch, 10, seed=0)
        number = batch.images[:, 0, 0, 0].float()
        return dict(zip(number.tolist(), (batch.features[:, 0] - number).tolist(), strict=True))

    first, second = view_of(0), view_of(1)
    assert all(first[number] != second[number] for number in first)
    assert view_of(2) == first


def test_every_view_is_shown_mirrored_too_and_then_again(tmp_path: Path) -> None:
    corpus = Corpus.open([write(tmp_path / "a", 0, 9)], CPU, mirror=True)
    stored = Corpus.open([tmp_path / "a"], CPU)
    shown: dict[int, list[tuple[float, float]]] = {}
    for epoch in range(4):
        batch, plain = corpus.batch(6 * epoch, 6, seed=0), stored.batch(6 * epoch, 6, seed=0)
        assert torch.equal(batch.features, plain.features) and torch.equal(batch.views[:, :4], plain.views[:, :4])
        numbers = batch.images[:, 0, 0, 0].tolist()
        turns = batch.views[:, 4] != plain.views[:, 4]
        assert torch.equal(batch.views[:, 4], torch.where(turns, (1 - plain.views[:, 4]).abs(), plain.views[:, 4]))
        for number, feature, turned in zip(numbers, batch.features[:, 0], turns, strict=True):
            shown.setdefault(number, []).append((float(feature) - number, float(turned)))
    assert len(shown) == 6
    assert all(sorted(seen) == [(0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (0.5, 1.0)] for seen in shown.values())
    assert {seen[0][1] for seen in shown.values()} == {0.0, 1.0}, "each epoch has both"


def test_the_stream_depends_on_seed_and_position_alone(corpus: Corpus) -> None:
    whole = corpus.batch(0, 24, seed=3)
    parts = [corpus.batch(0, 8, seed=3), corpus.batch(8, 16, seed=3)]
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.features, torch.cat([part.features for part in parts]))
    assert not torch.equal(whole.images, corpus.batch(0, 24, seed=4).images)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_held_out_images_are_spread_evenly(corpus: Corpus, limit: int) -> None:
    found = [(images[:, 0, 0, 0], features, labels) for images, features, labels in corpus.holdout(limit)]
    labels = torch.cat([label for _, _, label in found]).tolist()
    expected = [0, 3, 6, 9, 12]
    assert labels == expected[:: max(1, -(-len(expected) // limit))]
    for images, features, label in found:
        assert images.tolist() == label.tolist() == features[:, 0].tolist()


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image"):
        Corpus.open([write(tmp_path / "a", 0, 3, held_out=1)], CPU)


def test_folders_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ"):
        Corpus.open([write(tmp_path / "a", 0, 3), write(tmp_path / "b", 0, 3, side=16)], CPU)


def moved(corpus: Corpus, free: float, total: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a GPU with so much memory would be given the images."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, total))
    corpus._move_to_device()
    return corpus._resident is not None


@pytest.mark.parametrize(("total", "left"), [(140 * 2**30, 16 * 2**30), (24 * 2**30, 0.4 * 24 * 2**30)])
def test_what_leaves_enough_for_the_step_moves_to_the_gpu(
    total: int, left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten images of 8 x 8 x 3 + 2 x 20 + 2 x 8 bytes, however large a share of the memory they take."""
    folder, size = write(tmp_path / "a", 0, 15), 10 * (192 + 40 + 16)
    assert not moved(Corpus.open([folder], CPU), left + size - 1, total, monkeypatch)
    assert moved(Corpus.open([folder], CPU), left + size, total, monkeypatch)


def test_photos_beside_the_images_leave_the_step_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU of 1,000 bytes two images take half; a photo would leave a quarter, and the step is kept 400 bytes."""
    images, photos = (Corpus.open([write(tmp_path / f"{count}", 0, count)], CPU) for count in (3, 2))
    size, total = 2 * (192 + 40 + 16), 1000
    assert moved(images, total, total, monkeypatch)
    assert not moved(photos, total - size, total, monkeypatch)
    assert photos.batch(0, 2, seed=0).images[:, 0, 0, 0].tolist() == [1, 1], "read where they are"


def test_pixels_stay_on_disk(corpus: Corpus) -> None:
    assert all(isinstance(array.base, np.memmap) for shard in corpus.shards for array in shard)


def test_captions_are_the_training_images_distinct_ones(tmp_path: Path) -> None:
    """Sorted, whatever the order of the shards; a prompt of held-out images alone is none of them. Text from web pages
    has line separators that are none in JSON lines."""
    folders = [write(tmp_path / "a", 0, 6), write(tmp_path / "b", 6, 6)]
    prompts = [["z", "y\u2028", "b", "held out", "b", "y\u2028"], ["held out", "a", "b", "held out", "z", "a"]]
    for folder, lines in zip(folders, prompts, strict=True):
        (folder / "images.jsonl").write_text("".join(f'{{"prompt": "{line}"}}\n' for line in lines))
        np.save(folder / "holdout.npy", np.array([line == "held out" for line in lines]))
    corpus = Corpus.open(folders, CPU, with_captions=True)
    assert corpus.captions == ["a", "b", "y\u2028", "z"]
    wanted = [line for lines in prompts for line in lines if line != "held out"]
    assert [corpus.captions[index] for index in corpus.caption] == wanted
