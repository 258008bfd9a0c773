"""JPEG shards: readable by webdataset, the same bytes for the same images, whole after an interruption."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from distillation import jpeg
from distillation.jpeg import JpegWriter, encode_with_pillow, encoder, member_header


def smooth_images(count: int, side: int = 48) -> NDArray[np.uint8]:
    """Slow gradients of random colours: JPEG keeps them almost exactly."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (count, 2, 1, 1, 3))
    ramp = np.linspace(0, 1, side)[None, :, None, None]
    return np.broadcast_to(colours[:, 0] * ramp + colours[:, 1] * (1 - ramp), (count, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize("encode", [encoder(), encode_with_pillow])
def test_encoders_keep_the_picture(encode: jpeg.Encode) -> None:
    image = smooth_images(1)[0]
    data = encode(image)
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.format == "JPEG"
        assert np.abs(np.asarray(decoded).astype(int) - image).max() <= 4
    assert len(data) < image.nbytes / 4


def test_shard_is_read_by_webdataset(tmp_path: Path) -> None:
    images = smooth_images(5)
    with JpegWriter(tmp_path / "images.tar") as writer:
        writer.put([3, 4], images[:2])
        writer.put([7, 8, 9], images[2:])
    loaded = list(webdataset.WebDataset(str(tmp_path / "images.tar"), shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in loaded] == ["00000003", "00000004", "00000007", "00000008", "00000009"]
    for item, image in zip(loaded, images, strict=True):
        assert np.abs(item["jpg"].astype(int) - image).max() <= 4


@pytest.mark.parametrize(("index", "size"), [(0, 0), (17, 2148), (99_999_999, 7_654_321), (1_234_567_890, 2**33 - 1)])
def test_headers_are_those_of_tarfile(index: int, size: int) -> None:
    expected = tarfile.TarInfo(f"{index:08d}.jpg")
    expected.size = size
    assert member_header(index, size) == expected.tobuf(tarfile.USTAR_FORMAT)


def test_an_interrupted_shard_continues_to_the_same_bytes(tmp_path: Path) -> None:
    images = smooth_images(4)
    with JpegWriter(tmp_path / "whole.tar") as writer:
        writer.put([0, 1], images[:2])
        writer.put([2, 3], images[2:])
    path = tmp_path / "broken.tar"
    writer = JpegWriter(path)
    writer.put([0, 1], images[:2])
    offset = writer.sync()
    writer.put([2], images[2:3])
    writer.close(finish=False)
    assert path.read_bytes()[offset:].strip(b"\0")
    with JpegWriter(path, offset) as writer:
        writer.put([2, 3], images[2:])
    assert path.read_bytes() == (tmp_path / "whole.tar").read_bytes()
    with tarfile.open(path) as archive:
        assert [(m.name, m.mtime, m.uid) for m in archive] == [(f"{i:08d}.jpg", 0, 0) for i in range(4)]


def test_an_error_of_the_thread_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_image: NDArray[np.uint8]) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jpeg, "encoder", lambda: full)
    writer = JpegWriter(tmp_path / "images.tar")
    writer.put([0], smooth_images(1))
    with pytest.raises(OSError, match="No space left"):
        writer.sync()
    with pytest.raises(OSError, match="No space left"):
        writer.close()
