"""Layers that are slow in bf16 on a CPU, computed another way. What they compute stays the same."""

from __future__ import annotations

from types import MethodType

import torch
from timm.models.hgnet import LearnableAffineBlock
from torch import Tensor, nn


def speed_up_bf16(module: nn.Module) -> None:
    """Change layers of ``module`` in place for training under bf16 autocast on a CPU; without autocast nothing changes.

    Depthwise convolutions run in fp32: oneDNN's bf16 gradient of a strided one is many times slower (measured with
    torch 2.15 and AVX512-BF16, whole steps: LCNet 2.2 times faster, MobileNetV4 1.8, HGNetV2-B0 1.5).
    HGNet's affine scalars, one-element vectors that would make every activation fp32, take part as true scalars.
    """
    for layer in module.modules():
        # Only plain ones: others, such as those of TensorFlow's SAME padding, do more in their own forward.
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1:
            layer.forward = MethodType(_depthwise_in_fp32, layer)  # type: ignore[method-assign]
        elif isinstance(layer, LearnableAffineBlock):
            layer.forward = MethodType(_affine_by_scalars, layer)


def _depthwise_in_fp32(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled("cpu"):
        plain: Tensor = layer._conv_forward(x, layer.weight, layer.bias)
        return plain
    with torch.autocast("cpu", enabled=False):
        exact: Tensor = layer._conv_forward(x.float(), layer.weight, layer.bias)
        return exact.to(torch.bfloat16)


def _affine_by_scalars(layer: nn.Module, x: Tensor) -> Tensor:
    scale, bias = layer.get_parameter("scale"), layer.get_parameter("bias")
    return x * scale.squeeze() + bias.squeeze()
