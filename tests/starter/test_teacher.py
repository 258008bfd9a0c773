"""The command that trains the teacher, two steps long, and how it mixes photos in long trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.clip_directory import WEIGHTS
from models.teachers import load_teacher
from starter import teacher
from starter.mixing import jitter, mix
from tests.benchmarks.test_photos import write_data


def test_a_long_training_resumes_and_ends_with_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    monkeypatch.setattr(teacher, "train_text_tower", lambda *_args, **_options: None)
    monkeypatch.setattr(teacher, "LONG_PASSES", 0)
    work = tmp_path / "work"
    work.mkdir()
    for steps in (1, 2):
        teacher.train_teacher(tmp_path, tmp_path / f"after-{steps}", steps=steps, batch_size=8, seed=0, work=work)
    loaded = load_teacher(str(tmp_path / "after-2"))
    assert (loaded.image_size, loaded.embed_dim) == (teacher.IMAGE_SIZE, teacher.EMBED_DIM)
    saved = torch.load(work / "teacher.pt", weights_only=True)
    assert saved["step"] == 2
    name = "visual.trunk.conv1.0.weight"
    one, two = (load_file(tmp_path / f"after-{steps}" / WEIGHTS)[name].float() for steps in (1, 2))
    moved, last = (two - one).norm(), (saved["model"][name] - one).norm()
    assert 0 < moved < last / 2, "the average follows slowly"


def test_mixed_photos_hold_as_much_of_the_other_as_is_said() -> None:
    torch.manual_seed(0)
    pixels = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    kinds = set()
    for _ in range(20):
        mixed, other, share = mix(pixels, 0.3)
        assert sorted(other.tolist()) == list(range(6)) and share == pytest.approx(0.3, abs=0.03)
        expected = (1 - share) * torch.arange(6.0) + share * other
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
        kinds.add(set(mixed[:, 0].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0})
    assert kinds == {True, False}, "rectangles and whole photos"
    same, _, none = mix(pixels, 0.01)
    assert none == 0 and same is pixels


def test_colours_change_by_image_and_not_by_place() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(4, 3, 8, 8)
    changed = jitter(pixels)
    grey = jitter(pixels.mean(1, keepdim=True).expand_as(pixels))
    assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-5), "grey stays grey"
    contrast = changed.mean(1).flatten(1).std(1) / pixels.mean(1).flatten(1).std(1)
    assert bool(((contrast > 0.55) & (contrast < 1.45)).all()) and contrast.std() > 0.01
