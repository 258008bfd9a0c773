"""A folded student computes what the student does, by fewer layers."""

from __future__ import annotations

import torch
from timm.models.hgnet import LearnableAffineBlock
from torch import nn

from models.folded import folded
from models.students import build_student, student_config


def test_affine_scalars_are_folded_and_change_nothing() -> None:
    torch.manual_seed(0)
    student = build_student(student_config("hgnetv2_b0", 64, {"embed_dim": 32})).eval()
    affine = [layer for layer in student.modules() if isinstance(layer, LearnableAffineBlock)]
    for number, layer in enumerate(affine):
        layer.scale.data.fill_(0.6 + 0.1 * (number % 9))
        layer.bias.data.normal_(0, 0.3)
    affine[3].scale.data.fill_(-0.5)
    for layer in student.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        before = student(pixels)
        plain = folded(student)
        torch.testing.assert_close(plain(pixels), before, rtol=1e-4, atol=1e-5)
        assert torch.equal(student(pixels), before), "the student itself stays as it is"
    left = [layer for layer in plain.modules() if isinstance(layer, LearnableAffineBlock)]
    assert len(left) == 2, "one of a negative scale, and the one after the pooling"
