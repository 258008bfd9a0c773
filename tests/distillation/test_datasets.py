"""Importing real photos: every layout, and what strangers may upload."""

from __future__ import annotations

import errno
import io
import os
import stat
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillation import datasets
from distillation.datasets import import_dataset, read_info
from distillation.errors import DatasetError
from tests.distillation.photo_builders import bomb, load, photo, write_parquet, write_zip

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def test_zip_with_a_folder_per_class(tmp_path: Path) -> None:
    source = write_zip(
        tmp_path / "a.zip",
        {
            "photos/tulip/1.jpg": photo(RED),
            "photos/Rose/1.png": photo(GREEN, kind="PNG"),
            "photos/rose/2.webp": photo(BLUE, kind="WEBP"),
            "photos/README.txt": b"hello",
            "__MACOSX/photos/tulip/._1.jpg": b"junk",
            "photos/tulip/.DS_Store": b"junk",
        },
    )
    info = import_dataset(source, tmp_path / "out")
    images, labels = load(tmp_path / "out")
    assert info == read_info(tmp_path / "out")
    assert (info.classes, info.images, info.side, info.rejected) == (["Rose", "tulip"], 3, 32, [])
    assert labels.dtype == np.int32 and labels.tolist() == [0, 0, 1]  # Rose/ and rose/ are one class
    assert images.dtype == np.uint8 and images.shape == (3, 32, 32, 3)
    assert np.abs(images[:, 16, 16].astype(int) - [GREEN, BLUE, RED]).max() <= 6


def test_folder_tree_gives_the_same_as_its_zip(tmp_path: Path) -> None:
    members = {f"{name}/{i}.jpg": photo(colour) for name, colour in (("a", RED), ("b", BLUE)) for i in range(3)}
    for name, content in members.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    first = import_dataset(tmp_path / "tree", tmp_path / "one")
    second = import_dataset(write_zip(tmp_path / "a.zip", members), tmp_path / "two")
    assert first == second
    assert (tmp_path / "one" / "images.npy").read_bytes() == (tmp_path / "two" / "images.npy").read_bytes()


def test_unlabelled_photos(tmp_path: Path) -> None:
    info = import_dataset(write_zip(tmp_path / "a.zip", {"1.jpg": photo(), "2.jpg": photo()}), tmp_path / "out")
    assert info.classes == [] and load(tmp_path / "out")[1].tolist() == [-1, -1]


def test_large_photos_are_cut_to_a_centre_square(tmp_path: Path) -> None:
    wide = Image.new("RGB", (900, 300), BLUE)
    wide.paste(Image.new("RGB", (300, 300), RED), (300, 0))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    info = import_dataset(write_zip(tmp_path / "a.zip", {"a/1.png": buffer.getvalue()}), tmp_path / "out")
    image = load(tmp_path / "out")[0][0]
    assert info.side == 256 and (image[:, 1:-1] == RED).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), BLUE)
    image.paste(Image.new("RGB", (64, 32), RED), (0, 0))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    import_dataset(write_zip(tmp_path / "a.zip", {"a/1.jpg": buffer.getvalue()}), tmp_path / "out")
    pixels = load(tmp_path / "out")[0][0].astype(int)
    assert np.abs(pixels[8, 32] - BLUE).max() < 12 and np.abs(pixels[56, 32] - RED).max() < 12


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 32_768, dtype=np.uint16)).save(buffer, "PNG")
    import_dataset(write_zip(tmp_path / "a.zip", {"a/1.png": buffer.getvalue()}), tmp_path / "out")
    assert (load(tmp_path / "out")[0] == 128).all()


def test_parquet_with_names_beside_in_metadata_as_column_and_as_strings(tmp_path: Path) -> None:
    images = [photo(RED), photo(GREEN), photo(BLUE)]
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "classes.tsv").write_text("label\twnid\tnames\n1\tn1\tcat, feline\n0\tn0\tdog\n")
    write_parquet(beside / "data.parquet", images, label=[1, 0, -1])
    cases = {
        "beside": (beside / "data.parquet", ["cat, feline", "dog"], [0, 1, -1]),
        "metadata": (
            write_parquet(tmp_path / "m.parquet", images, ["dog", "cat"], label=[1, 0, 1]),
            ["dog", "cat"],
            [1, 0, 1],
        ),
        "column": (
            write_parquet(tmp_path / "c.parquet", images, name=["cat", "dog", "cat"]),
            ["cat", "dog"],
            [0, 1, 0],
        ),
        "both": (
            write_parquet(tmp_path / "b.parquet", images, label=[7, 3, 7], name=["cat", "dog", "cat"]),
            ["dog", "cat"],
            [1, 0, 1],
        ),
        "strings": (write_parquet(tmp_path / "s.parquet", images, label=["b", "a", "b"]), ["a", "b"], [1, 0, 1]),
        "none": (write_parquet(tmp_path / "n.parquet", images), [], [-1, -1, -1]),
    }
    for case, (source, classes, labels) in cases.items():
        info = import_dataset(source, tmp_path / f"out-{case}")
        assert (info.classes, load(tmp_path / f"out-{case}")[1].tolist()) == (classes, labels), case


def test_zip_of_parquet_and_class_names(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "t.parquet", [photo(RED), photo(BLUE)], label=[1, 0])
    members = {
        "data/evil.parquet": table.read_bytes(),
        "data/classes.tsv": b"label\tnames\n0\tdog\n1\tcat\n",
    }
    info = import_dataset(write_zip(tmp_path / "a.zip", members), tmp_path / "out")
    assert info.classes == ["dog", "cat"] and load(tmp_path / "out")[1].tolist() == [1, 0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "images.npy", "labels.npy"]


def test_number_labels_without_names_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing says what they mean") as caught:
        import_dataset(write_parquet(tmp_path / "t.parquet", [photo()], label=[0]), tmp_path / "out")
    assert caught.value.code == "bad_dataset" and "classes.tsv" in caught.value.hint


@pytest.mark.parametrize(
    "table", ["label\tname\n0\tx\n", "label\tnames\nx\ty\n", "label\tnames\n0\ta\n0\tb\n", "label\tnames\n0\n", ""]
)
def test_unusable_class_names_file(tmp_path: Path, table: str) -> None:
    (tmp_path / "classes.tsv").write_text(table)
    with pytest.raises(DatasetError):
        import_dataset(write_parquet(tmp_path / "t.parquet", [photo()], label=[0]), tmp_path / "out")


def test_broken_photos_are_listed_and_left_out(tmp_path: Path) -> None:
    good = {f"a/good{i}.jpg": photo() for i in range(5)}
    bad = {
        "a/bomb.png": bomb(),
        "a/cut.jpg": photo(size=(300, 300))[:700],
        "a/gif.jpg": b"GIF89a" + bytes(50),
        "a/tiny.png": photo(size=(400, 3), kind="PNG"),
    }
    info = import_dataset(write_zip(tmp_path / "a.zip", good | bad), tmp_path / "out")
    assert (info.images, info.rejected_count) == (5, 4)
    reasons = {item["file"]: item["reason"] for item in info.rejected}
    assert set(reasons) == set(bad)
    assert "million pixels" in reasons["a/bomb.png"] and "broken" in reasons["a/cut.jpg"]
    assert "not a JPEG" in reasons["a/gif.jpg"] and "smaller" in reasons["a/tiny.png"]


def test_mostly_broken_or_empty_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    members = {"a/1.jpg": photo(), "a/2.jpg": b"no", "a/3.jpg": b"no"}
    for source in (members, {"a/2.jpg": b"no"}, {"notes.txt": b"no"}):
        with pytest.raises(DatasetError):
            import_dataset(write_zip(tmp_path / "a.zip", source), tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


def test_names_that_lead_out_and_links_are_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.zip"
    path.parent.mkdir(parents=True)
    names = ["../../up.jpg", "/abs/a.jpg", "C:\\win\\a.jpg", "..\\..\\b\\c.jpg"]
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            archive.writestr(f"a/{i}.jpg", photo())
        for name in names:
            archive.writestr(name, photo())
        archive.writestr(zipfile.ZipInfo(""), photo())
        link = zipfile.ZipInfo("a/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    info = import_dataset(path, tmp_path / "out")
    assert info.classes == ["a"] and info.images == 8
    assert {item["file"] for item in info.rejected} == {"", *names, "a/link.jpg"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "out"]


def test_zip_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="times its own size"):
        import_dataset(write_zip(tmp_path / "a.zip", {"a/1.jpg": bytes(30_000_000)}), tmp_path / "out")
    members = {f"a/{i}.jpg": photo(size=(200, 200)) for i in range(60)} | {"a/x.jpg": bytes(400_000)}
    info = import_dataset(write_zip(tmp_path / "b.zip", members), tmp_path / "out")
    assert [item["reason"] for item in info.rejected] == ["compressed more than 50 times"]


def test_huge_table_of_contents_is_refused(tmp_path: Path) -> None:
    content = bytearray(write_zip(tmp_path / "a.zip", {"a/1.jpg": photo()}).read_bytes())
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = (200 * 2**20).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DatasetError, match="too many files"):
        import_dataset(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"PAR1 broken PAR1", b"Rar!\x1a\x07"])
def test_unreadable_uploads(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        import_dataset(tmp_path / "upload", tmp_path / "out")
    assert caught.value.hint


def test_parquet_without_images_names_its_columns(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "t.parquet", [photo()])
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(source).rename_columns(["picture"]), source)
    with pytest.raises(DatasetError, match="picture"):
        import_dataset(source, tmp_path / "out")


def test_too_many_photos(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", {f"a/{i}.jpg": photo() for i in range(4)})
    with pytest.raises(DatasetError, match="more than 3"):
        import_dataset(source, tmp_path / "out", max_images=3)


def test_room_is_taken_ahead_on_disk_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_zip(tmp_path / "a.zip", {f"{i}.jpg": photo() for i in range(9)})
    taken: list[tuple[int, int]] = []
    real = os.posix_fallocate

    def watched(file: int, start: int, length: int) -> None:
        taken.append((start, start + length))
        real(file, start, length)

    monkeypatch.setattr(os, "posix_fallocate", watched)
    monkeypatch.setattr(datasets, "ROOM_BYTES", 5000)
    import_dataset(source, tmp_path / "out")
    images, _ = load(tmp_path / "out")
    whole = (tmp_path / "out" / "images.npy").stat().st_size
    assert whole == images.nbytes + 128 and 1 < len(taken) < len(images)
    assert taken[0][0] == 128 and taken[-1][1] >= whole
    assert all(before[1] == after[0] for before, after in pairwise(taken))


def test_a_full_disk_is_found_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        import_dataset(write_zip(tmp_path / "a.zip", {"1.jpg": photo()}), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    source = write_parquet(tmp_path / "t.parquet", [buffer.getvalue()] * 120, label=["a"] * 120)
    tracemalloc.start()
    try:
        info = import_dataset(source, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert info.images == 120
    assert peak < 10 * 2**20 < (tmp_path / "out" / "images.npy").stat().st_size
