"""The student: a timm backbone and a projection to the teacher's embedding width.

It is open_clip's own ``TimmModel``, so an exported model loads in plain open_clip.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

import timm
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.errors import ModelError


def student_config(architecture: str, image_size: int, teacher_cfg: dict[str, Any]) -> dict[str, Any]:
    """The open_clip configuration of a student beside its teacher's text tower.

    Args:
        architecture: timm name.
        teacher_cfg: the teacher's ``model_cfg``; all but its vision tower is kept.
    """
    config = copy.deepcopy(teacher_cfg)
    config["custom_text"] = True
    config["vision_cfg"] = {
        "timm_model_name": architecture,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": _projection(architecture, teacher_cfg["embed_dim"]),
        "image_size": image_size,
    }
    return config


def _projection(architecture: str, embed_dim: int) -> str:
    """open_clip's name of the layers between pooled features and embedding.

    ``mlp``, two layers, where the features are narrower than the embedding: of ``d`` features a linear one reaches
    ``d`` of the embedding's dimensions only (docs/recipes.md has what that costs). Else ``linear``, or the empty
    string where timm's own classifier layer must serve: open_clip sizes its layers by ``num_features``, which is
    wrong for backbones with a hidden layer after pooling (MobileNet, LCNet, HGNet, GhostNet, EfficientViT).

    Raises:
        ModelError: bad_architecture, with close matches, where timm does not know the name.
    """
    known = timm.list_models()
    if architecture.split(".")[0] not in known:
        near = difflib.get_close_matches(architecture, known, 4, 0.5)
        raise ModelError(
            "bad_architecture",
            f"timm knows no architecture {architecture!r}",
            f"close matches: {', '.join(near)}" if near else "see the student catalogue",
            "student.architecture",
        )
    with torch.device("meta"):
        backbone = timm.create_model(architecture)
    features = backbone.num_features
    if getattr(backbone, "head_hidden_size", features) != features:
        return ""
    return "mlp" if features < embed_dim else "linear"


def build_student(model_cfg: dict[str, Any]) -> TimmModel:
    """A student with random weights, ``(n, 3, size, size) -> (n, embed_dim)``, not normalised.

    Raises:
        ModelError: bad_architecture, where it cannot run at that size.
    """
    vision = model_cfg["vision_cfg"]
    architecture, size = vision["timm_model_name"], vision["image_size"]
    try:
        student = TimmModel(
            architecture,
            embed_dim=model_cfg["embed_dim"],
            image_size=size,
            pool=vision["timm_pool"],
            proj=vision["timm_proj"],
        )
        with torch.inference_mode():
            shape = tuple(student.eval()(torch.zeros(1, 3, size, size)).shape)
        if shape != (1, model_cfg["embed_dim"]):
            raise ValueError(f"it gives {shape} instead of {(1, model_cfg['embed_dim'])}")
    except Exception as error:  # whatever an arbitrary architecture raises at a size or pooling it does not know
        raise ModelError(
            "bad_architecture",
            f"{architecture!r} cannot be a student at {size} pixels: {error}",
            "give student.image_size the architecture's own size, or choose one of the student catalogue",
            "student.architecture",
        ) from error
    return student


def projection_layer(student: TimmModel) -> nn.Linear:
    """The layer from the backbone's pooled features to the embedding."""
    layer = student.head.proj if len(student.head) else student.trunk.get_classifier()
    if not isinstance(layer, nn.Linear):
        raise ModelError("bad_architecture", f"the projection is a {type(layer).__name__}, not a linear layer")
    return layer


def count_params(module: nn.Module) -> int:
    """Parameters of a module; of a student: backbone and projection."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(student: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of convolutions, matrix products and attention for one image."""
    device = next(student.parameters()).device
    training, fast = student.training, torch.backends.mha.get_fastpath_enabled()
    student.eval()
    # nn.MultiheadAttention's fast path is one operator that the counter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            student(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        student.train(training)
    return int(counter.get_total_flops()) // 2


def student_features(student: nn.Module, pixels: Tensor, *, autocast: bool) -> Tensor:
    """Features of a batch, L2-normalised float32 ``(n, embed_dim)``; bf16 inside where ``autocast``."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=autocast):
        features: Tensor = student(pixels)
    return nn.functional.normalize(features.float(), dim=-1)
