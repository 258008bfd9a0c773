"""Decoding on every core: the order and the pixels of one thread, and few photos in memory at a time."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_images import made_photos
from distillation import photo_decoding, photo_files
from distillation.jpeg import encode_with_pillow
from distillation.photo_decoding import WAITING_PER_THREAD, decode_photos, decoding_threads
from distillation.photo_files import Photo, decode_square
from tests.distillation.photo_builders import photo

SIDE = 32


def numbered(count: int) -> list[Photo]:
    """Photos of different colours and sizes, every fifth of them broken."""
    return [
        Photo(str(i), i, b"no photo" if i % 5 == 4 else photo((i, 255 - i, 60), (40 + 7 * (i % 3), 50)))
        for i in range(count)
    ]


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_order_and_pixels_are_those_of_one_thread(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_decoding, "decoding_threads", lambda: threads)
    photos = [*numbered(60), Photo("unread", -1, b"", "encrypted")]
    found = list(decode_photos(photos, SIDE))
    assert [(one.name, one.label) for one in found] == [(one.name, one.label) for one in photos]
    for given, made in zip(photos, found, strict=True):
        if given.reason or given.label % 5 == 4:
            assert made.pixels is None and made.reason == (given.reason or "not a JPEG, PNG or WEBP image")
        else:
            assert made.pixels is not None and np.array_equal(made.pixels, decode_square(given.content, SIDE))


def read_ahead(photos: list[Photo]) -> int:
    """Most photos read but not yet given back."""
    read = most = 0

    def source() -> Iterator[Photo]:
        nonlocal read
        for one in photos:
            read += 1
            yield one

    for given, _ in enumerate(decode_photos(source(), SIDE)):
        most = max(most, read - given)
    return most


def test_few_photos_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = numbered(100)
    assert read_ahead(photos) == WAITING_PER_THREAD * decoding_threads() + 1
    monkeypatch.setattr(photo_decoding, "MAX_WAITING_BYTES", 1)
    assert read_ahead(photos) == 1


def test_large_photos_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_decoding, "decoding_threads", lambda: 4)
    monkeypatch.setattr(photo_files, "LARGE_DECODED_PIXELS", 45 * 50)
    plain = photo_files._square
    at_once: list[int] = []
    inside = 0
    lock = threading.Lock()

    def watched(opened: photo_files.Image.Image, side: int) -> object:
        nonlocal inside
        small = opened.width == 40
        with lock:
            inside += not small
            at_once.append(inside)
        made = plain(opened, side)
        with lock:
            inside -= not small
        return made

    monkeypatch.setattr(photo_files, "_square", watched)
    photos = [Photo(str(i), i, photo((i, 0, 0), (600, 700) if i % 3 else (40, 50))) for i in range(40)]
    assert all(one.pixels is not None for one in decode_photos(photos, SIDE))
    assert len(at_once) == 40 and max(at_once) == 1


def test_what_is_left_unread_is_not_decoded() -> None:
    """A caller that has enough stops; the threads end with it."""
    before = threading.active_count()
    some = decode_photos(iter(numbered(1000)), SIDE)
    assert next(some).name == "0"
    some.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(("width", "height"), [(40, 50), (97, 70), (200, 150), (640, 480), (500, 1400)])
def test_fast_resizing_is_the_careful_one_within_a_grey_level(width: int, height: int) -> None:
    content = encode_with_pillow(made_photos(1, height, width)[0].numpy())
    short, left, top = min(width, height), max(0, width - height) // 2, max(0, height - width) // 2
    with Image.open(io.BytesIO(content)) as whole:
        careful = whole.resize((64, 64), Image.Resampling.BICUBIC, (left, top, left + short, top + short))
    difference = decode_square(content, 64).astype(np.float64) - np.asarray(careful)
    assert np.sqrt(np.mean(difference**2)) < 1
