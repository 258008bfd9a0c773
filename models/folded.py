"""A student's form for inference alone: the same outputs within rounding, by fewer operations."""

from __future__ import annotations

import torch
from timm.models.hgnet import ConvBNAct, LearnableAffineBlock
from timm.utils import reparameterize_model
from torch import Tensor, nn


def folded(student: nn.Module) -> nn.Module:
    """A copy for inference, in evaluation mode.

    Branches that exist for training alone (RepVGG, RepViT, FastViT, MobileOne) become one convolution each. HGNet's
    affine scalars go into the batch normalisation before them: ``s relu(x) + b = max(s x + b, b)`` for a positive
    ``s``, and runtimes do a convolution and its bound at once.
    """
    plain: nn.Module = reparameterize_model(student).eval()
    for layer in plain.modules():
        if isinstance(layer, ConvBNAct) and isinstance(layer.lab, LearnableAffineBlock):
            _fold_affine(layer)
    return plain


@torch.no_grad()
def _fold_affine(layer: ConvBNAct) -> None:
    scale, bias = layer.lab.scale.item(), layer.lab.bias.item()
    if scale <= 0:
        return
    layer.bn.weight.mul_(scale)
    layer.bn.bias.mul_(scale).add_(bias)
    layer.act, layer.lab = _LowerBound(bias), nn.Identity()


class _LowerBound(nn.Module):
    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.bound)
