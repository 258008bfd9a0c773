"""Faster bf16 layers compute what the plain ones do."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from models.cpu_layers import speed_up_bf16


def outputs_and_gradients(model: torch.nn.Module, *, autocast: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    pixels = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = model(pixels.contiguous(memory_format=torch.channels_last))
    features.float().square().mean().backward()
    return features.float(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("architecture", ["lcnet_035", "hgnetv2_b0", "tf_mobilenetv3_small_minimal_100"])
def test_same_outputs_and_gradients(architecture: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(architecture, num_classes=8).to(memory_format=torch.channels_last).eval()
    fast = copy.deepcopy(plain)
    speed_up_bf16(fast)
    exact, exact_gradients = outputs_and_gradients(plain, autocast=False)
    same, same_gradients = outputs_and_gradients(fast, autocast=False)
    torch.testing.assert_close(same, exact)
    for one, other in zip(same_gradients, exact_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    rounded, gradients = outputs_and_gradients(fast, autocast=True)
    assert (rounded - exact).norm() / exact.norm() < 0.05
    pairs = list(zip(gradients, exact_gradients, strict=True))
    error = sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)
    assert error.sqrt() < 0.1


def test_a_copy_computes_with_its_own_weights() -> None:
    model = timm.create_model("lcnet_035", num_classes=8).eval()
    speed_up_bf16(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        pixels = torch.randn(1, 3, 64, 64)
        assert other(pixels).abs().max() == 0 < model(pixels).abs().max()
