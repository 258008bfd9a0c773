"""Downloads through breaks, lies and leftovers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from stillroom.client import Stillroom
from stillroom.downloads import safe_name
from stillroom.errors import BadInput, Corrupted, NotFound, Unreachable

from tests.client.faulty import CONTENT, DIGEST, ENCODER, Faults

NAME = "image_encoder.onnx"


def fetch(url: str, folder: Path, name: str | None = NAME) -> list[Path]:
    with Stillroom(url) as service:
        return service.download(ENCODER, folder, name)


def part_of(folder: Path) -> Path:
    return folder / f"{NAME}.{DIGEST[:12]}.part"


def test_whole_encoder_with_its_folders(url: str, tmp_path: Path) -> None:
    paths = fetch(url, tmp_path, None)
    assert paths == [tmp_path / NAME, tmp_path / "tokenizer" / "words.json"]
    assert all(path.read_bytes() == CONTENT for path in paths)


def test_cut_connection_goes_on_with_a_range(url: str, faults: Faults, tmp_path: Path) -> None:
    faults.cuts = [300_000, 200_000]
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert faults.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert [item.name for item in tmp_path.iterdir()] == [NAME]


def test_another_run_goes_on_where_the_first_stopped(url: str, faults: Faults, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert faults.ranges == ["bytes=1000-"]


def test_a_server_that_ignores_ranges_sends_it_whole(url: str, faults: Faults, tmp_path: Path) -> None:
    faults.ignore_range = True
    part_of(tmp_path).write_bytes(CONTENT[:1000])
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_finished_file_is_not_fetched_again(url: str, faults: Faults, tmp_path: Path) -> None:
    fetch(url, tmp_path)
    fetch(url, tmp_path)
    assert len(faults.ranges) == 1


def test_a_changed_file_is_fetched_again(url: str, faults: Faults, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\0" * len(CONTENT))
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(faults.ranges) == 1


def test_a_broken_leftover_costs_one_more_download(url: str, faults: Faults, tmp_path: Path) -> None:
    part_of(tmp_path).write_bytes(b"\0" * 1000)
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT
    assert faults.ranges == ["bytes=1000-", None]


def test_wrong_bytes_are_refused_and_thrown_away(url: str, faults: Faults, tmp_path: Path) -> None:
    faults.content = CONTENT[:-1] + b"\0"
    with pytest.raises(Corrupted) as caught:
        fetch(url, tmp_path)
    assert caught.value.expected == DIGEST
    assert caught.value.actual == hashlib.sha256(faults.content).hexdigest()
    assert list(tmp_path.iterdir()) == []


def test_too_many_bytes_are_refused(url: str, faults: Faults, tmp_path: Path) -> None:
    faults.content = CONTENT + b"more"
    with pytest.raises(Corrupted, match="more than"):
        fetch(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_connection_keeps_what_came(
    url: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.downloads.PAUSES", (0.0, 0.0))
    faults.cuts = [1000, 0, 0, 0]
    with pytest.raises(Unreachable, match="run the download again to go on"):
        fetch(url, tmp_path)
    assert part_of(tmp_path).read_bytes() == CONTENT[:1000]
    faults.cuts = []
    (path,) = fetch(url, tmp_path)
    assert path.read_bytes() == CONTENT


def test_unknown_file_names_those_there_are(url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"tokenizer/words\.json"):
        fetch(url, tmp_path, "nothing.onnx")


def test_names_that_leave_the_folder_are_refused(url: str, tmp_path: Path) -> None:
    with Stillroom(url) as service, pytest.raises(BadInput, match="outside"):
        service.download("enc_evil", tmp_path / "inside")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "C:x", "a\\b", "a\0b"])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(BadInput):
        safe_name(name)
