"""Checkpoints: the newest whole one wins."""

from __future__ import annotations

from pathlib import Path

import torch

from distillation.checkpoints import load_newest, save_checkpoint


def save(out: Path, step: int) -> str:
    return save_checkpoint(out, step, {"weight": torch.full((3,), float(step))}, {"step": step})


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    for step in (5, 40, 999_999, 1_000_000):
        path = save(tmp_path, step)
    assert path == "checkpoints/1000000"
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {"999999", "1000000"}
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded[1] == {"step": 1_000_000} and torch.equal(loaded[0]["weight"], torch.full((3,), 1e6))


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = tmp_path / save(tmp_path, 2) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-4])
    loaded = load_newest(tmp_path)
    assert loaded is not None and loaded[1] == {"step": 1}


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".000002.new").mkdir()
    loaded = load_newest(tmp_path)
    assert loaded is not None and loaded[1] == {"step": 1}
    assert save(tmp_path, 2) == "checkpoints/000002"
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "photos").mkdir(parents=True)
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert (tmp_path / "checkpoints" / "photos").is_dir()
