"""The losses of CLIP-KD against plain NumPy references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distillation.recipe import NEED_CAPTIONS
from models.augmentation import augmentation_layer, augmented_features
from models.losses import LOSSES, Batch, contrastive, crd, gd, icl, info_nce_gradients, total_loss
from tests.models.test_losses import SCALE, features, log_softmax

CAPTION = torch.tensor([0, 1, 2, 1, 0, 1])
OWN = torch.arange(6)


def texts(caption: torch.Tensor) -> torch.Tensor:
    return features(2, rows=int(caption.max()) + 1)


def positives(caption: torch.Tensor) -> np.ndarray:
    rows = [[float(a == b) for b in caption.tolist()] for a in caption.tolist()]
    return np.array([np.array(row) / sum(row) for row in rows])


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Of two matrices of logits, row by row."""
    p, q = np.exp(log_softmax(teacher)), np.exp(log_softmax(student))
    return float((p * np.log(p / q)).sum(1).mean())


@pytest.mark.parametrize("caption", [OWN, CAPTION])
def test_crd(caption: torch.Tensor) -> None:
    s, t, u = features(0), features(1), texts(caption)
    row = u.numpy()[caption.numpy()]
    of_s, of_t = SCALE * s.numpy() @ row.T, SCALE * t.numpy() @ row.T
    expected = (kl(of_t, of_s) + kl(of_t.T, of_s.T)) / 2
    assert crd(s, t, u, caption, SCALE).item() == pytest.approx(expected)


def gradients(x: np.ndarray, u: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """By loops: of InfoNCE(x, u), then of InfoNCE(u, x), each by the query and by the key."""
    found = []
    for queries, keys in ((x, u), (u, x)):
        error = np.exp(log_softmax(SCALE * queries @ keys.T)) - wanted
        by_query, by_key = np.zeros_like(queries), np.zeros_like(keys)
        for i in range(len(queries)):
            for j in range(len(keys)):
                by_query[i] += SCALE / len(queries) * error[i, j] * keys[j]
                by_key[j] += SCALE / len(queries) * error[i, j] * queries[i]
        found += [by_query, by_key]
    return found


@pytest.mark.parametrize("caption", [OWN, CAPTION])
def test_gd(caption: torch.Tensor) -> None:
    s, t, u = features(0), features(1), texts(caption)
    wanted, row = positives(caption), u.numpy()[caption.numpy()]
    pairs = zip(gradients(s.numpy(), row, wanted), gradients(t.numpy(), row, wanted), strict=True)
    expected = sum(((of_s - of_t) ** 2).mean() for of_s, of_t in pairs)
    assert gd(s, t, u, caption, SCALE).item() == pytest.approx(expected)


@pytest.mark.parametrize("caption", [OWN, CAPTION])
def test_the_analytic_gradients_are_autograds(caption: torch.Tensor) -> None:
    queries, keys = features(0).requires_grad_(), texts(caption)[caption].clone().requires_grad_()
    wanted = torch.from_numpy(positives(caption))
    loss = F.cross_entropy(SCALE * queries @ keys.t(), wanted)
    for found, expected in zip(
        info_nce_gradients(queries, keys, wanted, SCALE), torch.autograd.grad(loss, (queries, keys)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_gradients_by_image_add_up_to_those_of_contrastive() -> None:
    s, u = features(0).requires_grad_(), texts(CAPTION)
    (expected,) = torch.autograd.grad(contrastive(s, u, CAPTION, SCALE), s)
    wanted, row = torch.from_numpy(positives(CAPTION)), u[CAPTION]
    as_query, _ = info_nce_gradients(s, row, wanted, SCALE)
    _, as_key = info_nce_gradients(row, s, wanted, SCALE)
    torch.testing.assert_close((as_query + as_key) / 2, expected)


def test_gd_itself_has_a_gradient() -> None:
    t, u = features(1), texts(CAPTION)
    assert torch.autograd.gradcheck(lambda s: gd(s, t, u, CAPTION, 2.0), features(0).requires_grad_())


def test_mfd_is_mse_of_the_masked_features() -> None:
    s, t, masked = features(0), features(1), features(3)
    batch = Batch(s, t, SCALE, masked=masked)
    assert total_loss({"mfd": 1.0}, batch).item() == pytest.approx(((masked.numpy() - t.numpy()) ** 2).mean())
    with pytest.raises(ValueError, match="masked"):
        total_loss({"mfd": 1.0}, Batch(s, t, SCALE))


def test_afd() -> None:
    s, t, u = features(0), features(1), texts(CAPTION)
    layer = augmentation_layer(16).double()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    fused = np.concatenate([s.numpy(), t.numpy()], axis=1) @ weight.T + bias
    fused /= np.linalg.norm(fused, axis=1, keepdims=True)
    logits = SCALE * fused @ u.numpy()[CAPTION.numpy()].T
    wanted = positives(CAPTION)
    expected = -((wanted * log_softmax(logits)).sum(1).mean() + (wanted * log_softmax(logits.T)).sum(1).mean()) / 2
    batch = Batch(s, t, SCALE, u, CAPTION, augmented=augmented_features(layer, s, t))
    assert total_loss({"afd": 1.0}, batch).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="augmented"):
        total_loss({"afd": 1.0}, Batch(s, t, SCALE, u, CAPTION))


@pytest.mark.parametrize("name", sorted(NEED_CAPTIONS))
def test_without_captions_the_loss_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"the {name} loss needs captions"):
        total_loss({name: 1.0}, Batch(features(0), features(1), SCALE, augmented=features(3)))


@pytest.mark.parametrize("name", ["crd", "gd"])
def test_zero_and_a_finite_gradient_where_student_equals_teacher(name: str) -> None:
    t = features(1).float()
    s = t.clone().requires_grad_()
    loss = LOSSES[name](Batch(s, t, SCALE, texts(CAPTION).float(), CAPTION))
    assert loss.item() == pytest.approx(0, abs=2e-6)
    loss.backward()
    assert s.grad is not None and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("caption", [OWN, CAPTION])
def test_icl(caption: torch.Tensor) -> None:
    s, t, u = features(0), features(1), texts(caption)
    row, wanted = u.numpy()[caption.numpy()], positives(caption)
    halves = (SCALE * s.numpy() @ row.T, SCALE * row @ t.numpy().T)
    expected = -sum((wanted * log_softmax(logits)).sum(1).mean() for logits in halves) / 2
    assert icl(s, t, u, caption, SCALE).item() == pytest.approx(expected)


def test_icls_gradient_is_that_of_its_image_half() -> None:
    s, t, u = features(0).requires_grad_(), features(1), texts(OWN)
    image_half = F.cross_entropy(SCALE * s @ u.t(), OWN) / 2
    torch.testing.assert_close(torch.autograd.grad(icl(s, t, u, OWN, SCALE), s), torch.autograd.grad(image_half, s))
