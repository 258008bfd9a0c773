"""Classification by onnxruntime: right, like torchvision, and within limits."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.encoders.classifiers import Classifier, ClassifierCache, load_session
from api.encoders.images import MAX_PIXELS, BadImage, decode, preprocess
from api.processes import Helper
from tests.api.conftest import Service
from tests.api.seeds import CLASSES, MEAN, SIDE, STD, classifier_onnx, picture


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    job = service.finish(service.submit()["id"])
    return f"/v1/encoders/{job['encoder_id']}/classify"


@pytest.mark.parametrize(("colour", "label"), [((250, 20, 20), CLASSES[0]), ((20, 20, 250), CLASSES[2])])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_raw_body(service: Service, url: str, colour: tuple[int, int, int], label: str, kind: str) -> None:
    headers = {"Content-Type": f"image/{kind.lower()}"}
    answer = service.http.post(url, content=picture(colour, kind=kind), headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["model"] == "classifier.onnx" and found["milliseconds"] > 0
    assert found["probabilities"][0]["label"] == label
    values = [item["probability"] for item in found["probabilities"]]
    assert len(values) == 3 and values == sorted(values, reverse=True) and abs(sum(values) - 1) < 1e-5


def test_form_gives_the_same_as_the_raw_body(service: Service, url: str) -> None:
    content = picture((20, 200, 20))
    form = service.http.post(url, files={"image": ("x.jpg", content)}, params={"top": 1}).json()
    raw = service.http.post(url, content=content).json()
    assert len(form["probabilities"]) == 1
    assert form["probabilities"][0] == raw["probabilities"][0]
    assert form["probabilities"][0]["label"] == CLASSES[1]


def test_refusals(service: Service, url: str) -> None:
    def code(**request: Any) -> tuple[int, str]:
        answer = service.http.post(url, **request)
        return answer.status_code, answer.json()["code"]

    assert code(content=b"no image at all") == (422, "bad_image")
    assert code(content=b"") == (422, "bad_image")
    assert code(content=picture((1, 2, 3))[:200]) == (422, "bad_image")
    assert code(content=b"<svg/>", headers={"Content-Type": "text/html"}) == (415, "unsupported_media_type")
    assert code(files={"photo": ("x.jpg", picture((1, 2, 3)))}) == (422, "invalid_request")
    assert code(content=b"x" * (33 << 20)) == (413, "payload_too_large")
    assert service.http.post(url, params={"top": 0}, content=b"x").status_code == 422
    missing = service.http.post("/v1/encoders/enc_none/classify", content=picture((1, 2, 3)))
    assert missing.status_code == 404


def test_encoder_without_onnx(service: Service) -> None:
    job = service.submit(data={"images_per_class": 5}, exports={"onnx": False, "int8": False})
    done = service.finish(job["id"], onnx_export=False)
    answer = service.http.post(f"/v1/encoders/{done['encoder_id']}/classify", content=picture((1, 2, 3)))
    assert answer.status_code == 409 and "exports.onnx" in answer.json()["detail"]


def test_a_classifier_that_is_gone_is_said_to_be(start: Callable[..., Service]) -> None:
    service = start()
    encoder = f"/v1/encoders/{service.finish(service.submit()['id'])['encoder_id']}"
    [sha256] = [f["sha256"] for f in service.http.get(encoder).json()["files"] if f["name"] == "classifier.onnx"]
    service.blobs.delete(sha256)
    answer = service.http.post(f"{encoder}/classify", content=picture((1, 2, 3)))
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert "classifier.onnx" in answer.json()["detail"]


def png_bomb(width: int, height: int) -> bytes:
    """A few kilobytes that say they are a large picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(5000, 5000), (12_000, 12_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_header(service: Service, url: str, size: tuple[int, int]) -> None:
    answer = service.http.post(url, content=png_bomb(*size))
    assert answer.status_code == 422 and answer.json()["code"] == "bad_image"
    assert "pixels" in answer.json()["detail"]


def test_large_photo_is_read_at_half_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (5000, 4000), (9, 200, 9)).save(tmp_path / "photo.jpg", quality=30)
    image = decode(tmp_path / "photo.jpg")
    assert image.size == (2500, 2000) and image.width * image.height <= MAX_PIXELS
    # The decoder of a progressive picture holds all of it, whatever size is asked for.
    Image.new("RGB", (5000, 4000)).save(tmp_path / "photo.jpg", progressive=True)
    with pytest.raises(BadImage, match="pixels"):
        decode(tmp_path / "photo.jpg")


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert decode(tmp_path / "photo.jpg").size == (20, 40)


def test_a_process_that_dies_is_started_again() -> None:
    helper = Helper()
    try:
        assert helper.run(abs, -3) == 3
        with pytest.raises(MemoryError):
            helper.run(os._exit, 9)
        assert helper.run(abs, -4) == 4
    finally:
        helper.close()


def die_when_told(pipe: Path) -> None:
    pipe.read_bytes()
    os._exit(9)


def test_only_the_work_that_kills_the_process_is_told_so(tmp_path: Path) -> None:
    helper, waiting = Helper(), threading.Barrier(4)
    os.mkfifo(tmp_path / "pipe")

    def innocent(value: int) -> int:
        waiting.wait()
        return helper.run(abs, value)

    try:
        with ThreadPoolExecutor(4) as threads:
            guilty = threads.submit(helper.run, die_when_told, tmp_path / "pipe")
            with (tmp_path / "pipe").open("wb"):  # opens once the process reads it, and ends it on closing
                others = [threads.submit(innocent, -value) for value in range(3)]
                waiting.wait()
            with pytest.raises(MemoryError):
                guilty.result()
            assert [other.result() for other in others] == [0, 1, 2]
    finally:
        helper.close()


def test_what_waits_when_the_helper_is_closed_is_not_begun() -> None:
    helper = Helper()
    helper.close()
    with pytest.raises(RuntimeError, match="ending"):
        helper.run(abs, -3)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (20, 33), (64, 64), (65, 64)])
def test_preprocess_equals_open_clip(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    how = {"size": 64, "mean": MEAN, "std": STD, "interpolation": interpolation, "resize_mode": mode}
    transform = image_transform(64, False, tuple(MEAN), tuple(STD), resize_mode=mode, interpolation=interpolation)
    expected = transform(image)[None].numpy()
    ours = preprocess(image, how)
    assert ours.shape == expected.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_cache_is_bounded_and_loads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.encoders.classifiers.MAX_CLASSIFIERS", 4)
    cache = ClassifierCache()
    loads: list[str] = []

    def get(key: str, size: int = 1000) -> Classifier:
        def load() -> Classifier:
            loads.append(key)
            return Classifier(load_session(classifier_onnx()), CLASSES, {}, size)

        return cache.get(key, load)

    for key in "aabbccdd":
        get(key)
    assert loads == list("abcd")
    get("a")
    get("e")  # `b` is the one not used for longest
    get("a")
    assert loads == list("abcde")
    get("b")
    assert loads == list("abcdeb")
    get("large", size=1 << 40)
    get("b")
    assert loads[-2:] == ["large", "b"]
    pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
    assert get("b").probabilities(pixels).shape == (3,)
