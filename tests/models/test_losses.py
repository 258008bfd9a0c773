"""Losses against plain NumPy references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distillation.known_models import LOSSES as SHOWN
from models.losses import LOSSES, Batch, contrastive, cosine, i2i, l2, mse, total_loss

SCALE = 20.0


def features(seed: int, rows: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 16, generator=generator, dtype=torch.float64), dim=-1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def test_l2_is_the_norm_and_not_its_square() -> None:
    s, t = features(0), features(1)
    assert l2(s, t).item() == pytest.approx(np.linalg.norm(s.numpy() - t.numpy(), axis=1).mean())


def test_mse_and_cosine() -> None:
    s, t = features(0), features(1)
    assert mse(s, t).item() == pytest.approx(((s.numpy() - t.numpy()) ** 2).mean())
    assert cosine(s, t).item() == pytest.approx((1 - (s.numpy() * t.numpy()).sum(1)).mean())


def test_i2i() -> None:
    s, t = features(0), features(1)
    expected = -np.diag(log_softmax(SCALE * s.numpy() @ t.numpy().T)).mean()
    assert i2i(s, t, SCALE).item() == pytest.approx(expected)


def test_contrastive_is_the_papers_where_every_image_has_its_own_caption() -> None:
    s, texts = features(0), features(2)
    logits = SCALE * s.numpy() @ texts.numpy().T
    expected = -(np.diag(log_softmax(logits)).mean() + np.diag(log_softmax(logits.T)).mean()) / 2
    assert contrastive(s, texts, torch.arange(6), SCALE).item() == pytest.approx(expected)


def test_contrastive_does_not_push_apart_images_of_one_caption() -> None:
    texts = features(2, rows=2)
    caption = torch.tensor([0, 0, 1, 1])
    on_their_text = texts[caption].clone().requires_grad_()
    loss = contrastive(on_their_text, texts, caption, 1000.0)
    assert loss.item() == pytest.approx(np.log(2))  # two equal positives each: the least that is possible
    (gradient,) = torch.autograd.grad(loss, on_their_text)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["l2", "mse", "cosine"])
def test_zero_and_a_finite_gradient_where_student_equals_teacher(name: str) -> None:
    t = features(1).float()
    s = t.clone().requires_grad_()
    loss = LOSSES[name](Batch(s, t, SCALE))
    assert loss.item() == pytest.approx(0, abs=2e-6)
    loss.backward()
    assert s.grad is not None and torch.isfinite(s.grad).all()


def test_total_is_the_weighted_sum() -> None:
    batch = Batch(features(0), features(1), SCALE)
    expected = 2 * l2(batch.student, batch.teacher) + 0.5 * mse(batch.student, batch.teacher)
    assert total_loss({"l2": 2.0, "mse": 0.5}, batch).item() == pytest.approx(expected.item())


def test_contrastive_without_captions_says_so() -> None:
    with pytest.raises(ValueError, match="captions"):
        total_loss({"contrastive": 1.0}, Batch(features(0), features(1), SCALE))


def test_the_catalogue_shows_every_loss() -> None:
    assert [row.name for row in SHOWN] == list(LOSSES)
