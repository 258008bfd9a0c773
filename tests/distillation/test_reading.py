"""A base generator learns to read the texts of another encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distillation.generator_training import reading
from distillation.generator_training.networks import OneStep, load_base, save_pipeline
from distillation.generator_training.reading import read_anew, reads_alike
from distillation.generator_training.text_encoder import teacher_texts
from distillation.plan import STARTER
from models.teachers import load_teacher

CPU = torch.device("cpu")
NAMES = [("lemon", "citrus"), ("tractor",), ("goldfish",), ("pizza",)]


def test_each_class_means_what_it_meant(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the layers that read text have changed, and the answers are those to the base's own encoder, nearly."""
    monkeypatch.setattr(reading, "STEPS", 100)
    base, before = load_base(str(STARTER / "generator"), 32, CPU)
    texts = teacher_texts(load_teacher(str(teacher_folder)))
    steps: list[int] = []
    model = read_anew(base, before, texts, NAMES, 0, steps.append)
    assert steps == list(range(1, 101))
    ours, theirs = base.state_dict(), model.state_dict()
    changed = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert changed and all("attn2.to_" in name or "add_embedding" in name for name in changed)
    said, noise = [f"a photo of a {NAMES[row % 4][0]}" for row in range(16)], base.draw_noise(16)
    with torch.no_grad():
        wanted = base.latents(noise, before(said))
        apart, of_others = (
            F.mse_loss(model.latents(noise, texts(asked)), wanted) for asked in (said, [*said[1:], said[0]])
        )
    assert apart < 0.5 * of_others


def test_what_reads_alike(teacher_folder: Path, tmp_path: Path) -> None:
    own, other = (teacher_texts(load_teacher(str(folder))) for folder in (STARTER / "teacher", teacher_folder))
    save_pipeline(OneStep(32, own.width), own, tmp_path)  # in fp16
    _, kept = load_base(str(tmp_path), 32, CPU)
    assert reads_alike(kept, own, NAMES) and not reads_alike(kept, other, NAMES)
