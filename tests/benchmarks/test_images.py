"""The comparison of readers and imports, whole, with few images; and that a reader of other images ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.images import __main__ as benchmark
from benchmarks.images.importing import LIMITS
from benchmarks.images.readers import RawReader
from benchmarks.images.stored import store_images
from distillation.views import apply_views


def test_readers_agree_and_everything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.OUT", tmp_path)
    monkeypatch.setattr(benchmark, "PHOTO_SIZES", ((340, 300), (1040, 780)))
    benchmark.main(images=18, batch_size=4, photos=16, student="test_resnet", rounds=3, threads=1)
    result = json.loads((tmp_path / "images.json").read_text(encoding="utf-8"))
    reading = result["reading"]
    peers = {"ImageFolder", "ImageFolder, workers", "webdataset", "webdataset, workers", "FFCV-like raw"}
    assert set(reading["images_per_s"]) == {*peers, "ours", "FFCV-like raw, crops", "ours, crops"}
    assert set(reading["ratios"]) == {*peers, "FFCV-like raw, crops"}
    assert 0 < reading["crop_difference"] < benchmark.SAME_CROP
    assert reading["share_of_limit"] > 0
    assert 0 < result["share_of_step"]["share"] < 1
    assert [tuple(one["size"]) for one in result["imports"]] == [(340, 300), (1040, 780)]
    for one in result["imports"]:
        assert set(one["shares"]) == {"import of a folder", "import of a parquet file", "stream of a tar file"}
        assert all(set(share) == set(LIMITS) for share in one["shares"].values())


def test_a_reader_of_other_images_is_caught(tmp_path: Path) -> None:
    stored = store_images(tmp_path, 9, 32)

    def altered() -> Iterator[Tensor]:
        batch = torch.from_numpy(np.array(stored.pixels))
        batch[3, 5, 5, 1] ^= 1
        yield batch

    def short() -> Iterator[Tensor]:
        yield from torch.from_numpy(np.array(stored.pixels))[:4].split(2)

    benchmark._check_whole("raw", RawReader(stored.pixels, 2, 1), stored)
    for reader in (altered, short):
        with pytest.raises(SystemExit, match="does not give the stored images"):
            benchmark._check_whole("other", reader, stored)


def test_crops_elsewhere_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store_images(tmp_path, 8, 64)
    views = np.tile(np.array([0.1, 0.2, 0.7, 0.6, 0], np.float32), (8, 1))
    assert benchmark._crop_difference(stored, views) < benchmark.SAME_CROP
    monkeypatch.setattr(
        benchmark, "apply_views", lambda images, views, *rest: apply_views(images.flip(2), views, *rest)
    )
    with pytest.raises(SystemExit, match="crops differ"):
        benchmark._crop_difference(stored, views)
