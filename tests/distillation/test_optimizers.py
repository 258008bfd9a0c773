"""Muon's matrices: as large as AdamW's steps, orthogonal to the last digit where bf16 is not at home."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distillation import optimizers
from distillation.optimizers import load_optimizer, new_optimizer, optimizer_tensors
from tests.distillation.training_folders import training

CPU = torch.device("cpu")
QUINTIC = [
    (4.0848, -6.8946, 2.927),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
"""Coefficients of the Newton-Schulz iteration (K. Jordan, tuned by L. Franz Cesista and others)."""


def orthogonalized(matrix: Tensor) -> Tensor:
    """Plain reference in float64: all singular values near one."""
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    x = wide / wide.norm()
    for a, b, c in QUINTIC:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


@pytest.mark.parametrize("native", [False, True])
def test_muon_against_a_plain_reference(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "bf16_is_native", lambda device: native)
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 10, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = new_optimizer(layer, training(optimizer="muon", lr=0.01, weight_decay=0.1), CPU)
    layer.weight.grad = torch.randn_like(layer.weight)
    optimizer.step()
    moved = orthogonalized(layer.weight.grad.flatten(1)).reshape(before.shape)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 54**0.5 * moved
    error = float((layer.weight - expected).detach().norm() / (expected - before).norm())
    assert error < 0.05, "bf16 or not"
    assert (error < 1e-5) == (not native), "fp32 where bf16 is emulated"


def test_vectors_and_depthwise_filters_are_adamws() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 1))
    optimizer = new_optimizer(net, training(optimizer="muon", lr=0.01), CPU)
    net(torch.randn(4, 8, 8, 8)).square().sum().backward()
    optimizer.step()
    by_momentum = [p for p in net.parameters() if "momentum_buffer" in optimizer.state[p]]
    assert len(by_momentum) == 1 and by_momentum[0] is net[2].weight
    assert all("exp_avg_sq" in optimizer.state[p] for p in net.parameters() if p is not net[2].weight)


def test_the_state_goes_and_comes_back() -> None:
    nets = [nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)) for _ in range(2)]
    first, second = (new_optimizer(net, training(optimizer="muon"), CPU) for net in nets)
    for net, optimizer in zip(nets, (first, second), strict=True):
        net(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
    load_optimizer(second, optimizer_tensors(first))
    one, other = optimizer_tensors(first), optimizer_tensors(second)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
