"""The teacher: an open_clip model, frozen, whose image features the student learns to reproduce."""

from __future__ import annotations

import copy
import difflib
import json
import logging
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip_directory import CONFIG, TOKENIZER_FILES
from models.errors import ModelError
from models.hub import explain_hub_error, is_path, snapshot

SAME_FEATURES = 0.999
"""Smallest cosine between bf16 and fp32 features at which bf16 is used."""
TEXT_BATCH = 256


@dataclass(frozen=True)
class TeacherModel:
    """A frozen open_clip model and what its users ask of it.

    Args:
        model: ``CustomTextCLIP`` in eval mode, no parameter requires a gradient; its image tower may be in bf16.
        model_cfg: its open_clip configuration, ``custom_text: true``.
        preprocess_cfg: open_clip's preprocessing: size, mean, std, interpolation, resize_mode.
        name: what the recipe called it.
        folder: its open_clip directory, or None for a model built into open_clip.
    """

    model: nn.Module
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    name: str
    folder: Path | None
    device: torch.device

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        size = self.preprocess_cfg["size"]
        return int(size if isinstance(size, int) else size[0])

    @property
    def mean(self) -> tuple[float, float, float]:
        red, green, blue = self.preprocess_cfg["mean"]
        return red, green, blue

    @property
    def std(self) -> tuple[float, float, float]:
        red, green, blue = self.preprocess_cfg["std"]
        return red, green, blue

    @property
    def interpolation(self) -> str:
        return str(self.preprocess_cfg["interpolation"])

    @property
    def embed_dim(self) -> int:
        return int(self.model_cfg["embed_dim"])

    @property
    def logit_scale(self) -> float:
        """Inverse temperature, already exponentiated."""
        scale: Tensor = self.model.get_parameter("logit_scale")
        return float(scale.exp())

    @property
    def text_tower(self) -> nn.Module:
        """The text tower, ``tokens (n, context) -> (n, embed_dim)``."""
        return self.model.get_submodule("text")

    @property
    def params_image_tower(self) -> int:
        return sum(p.numel() for p in self.model.get_submodule("visual").parameters())

    @property
    def params_total(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @cached_property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer: ``list[str] -> (n, context)`` int64."""
        return open_clip.get_tokenizer(f"local-dir:{self.folder}" if self.folder else self.name)

    @cached_property
    def tokenizer_folder(self) -> Path | None:
        """A folder holding the Hugging Face tokenizer's files; None for open_clip's own tokenizer, which needs none."""
        if not self.model_cfg["text_cfg"].get("hf_tokenizer_name"):
            return None
        if self.folder is not None and any((self.folder / name).is_file() for name in TOKENIZER_FILES):
            return self.folder
        folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
        self.tokenizer.save_pretrained(str(folder))
        return folder

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Image features.

        Args:
            pixels: normalised, ``(n, 3, image_size, image_size)``, on any device.

        Returns:
            float32 ``(n, embed_dim)``, L2-normalised, on the teacher's device.
        """
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        return _image_features(self.model.get_submodule("visual"), pixels)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Text features, float32 ``(len(texts), embed_dim)``, L2-normalised."""
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self.tokenizer(texts[start : start + TEXT_BATCH]).to(self.device)
            parts.append(F.normalize(self.text_tower(tokens).float(), dim=-1))
        return torch.cat(parts)

    def zero_shot_head(self, prompts_per_class: list[list[str]]) -> Tensor:
        """One direction for each class: the mean of its prompts' features, normalised again.

        Returns:
            float32 ``(embed_dim, classes)``; image features times it are cosines.
        """
        features = self.encode_text([prompt for prompts in prompts_per_class for prompt in prompts])
        means = [part.mean(0) for part in features.split([len(prompts) for prompts in prompts_per_class])]
        return F.normalize(torch.stack(means), dim=-1).t().contiguous()


def load_teacher(
    model: str, pretrained: str | None = None, revision: str | None = None, device: str | torch.device = "cpu"
) -> TeacherModel:
    """Load an open_clip model and freeze it.

    Args:
        model: an open_clip name (``ViT-B-32``), ``hf-hub:org/name``, ``local-dir:/path`` or a directory.
        pretrained: weight tag or safetensors file, for an open_clip name.
        revision: commit of the hub model.

    Raises:
        ModelError: weights_missing, weights_gated, hub_unreachable or bad_architecture.
    """
    device = torch.device(device)
    if model.startswith("hf-hub:"):
        folder: Path | None = snapshot(
            model.removeprefix("hf-hub:"), revision, ["*.json", "*.safetensors", "*.txt", "*.model"]
        )
    elif model.startswith("local-dir:") or is_path(model):
        folder = Path(model.removeprefix("local-dir:"))
    else:
        folder = None
    config = _read_config(folder) if folder else _builtin_config(model, pretrained)
    if "multimodal_cfg" in config:
        raise ModelError(
            "bad_architecture",
            f"the teacher {model!r} is a CoCa model; its text tower cannot be exported beside a student",
            "choose a CLIP or SigLIP model",
            "teacher.model",
        )
    try:
        # force_custom_text: the same module names, `visual` and `text`, for every architecture.
        clip = open_clip.create_model(
            f"local-dir:{folder}" if folder else model,
            pretrained=None if folder else pretrained,
            require_pretrained=True,
            force_quick_gelu=bool(config.get("quick_gelu")),
            force_custom_text=True,
        )
    except Exception as error:
        logging.getLogger(__name__).debug("open_clip could not load %s", model, exc_info=True)
        raise explain_hub_error(error, f"the teacher {model!r}", "teacher.model") from error
    clip = clip.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    preprocess = dict(clip.visual.preprocess_cfg)
    size = preprocess["size"]
    if not isinstance(size, int) and len(set(size)) != 1:
        raise ModelError(
            "bad_architecture",
            f"the teacher {model!r} takes images of {size[0]}x{size[1]} pixels; only square ones are supported",
            "choose another model",
            "teacher.model",
        )
    clip.visual = _in_bf16_where_safe(clip.visual, size if isinstance(size, int) else size[0], device)
    return TeacherModel(
        model=clip,
        model_cfg={**config, "custom_text": True},
        preprocess_cfg=preprocess,
        name=model,
        folder=folder,
        device=device,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(
            "weights_missing",
            f"{folder} is not an open_clip directory: it needs {CONFIG} and a .safetensors file",
            "give a directory saved by open_clip with safetensors weights (pickled weights are not read)",
            "teacher.model",
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "weights_missing", f"{path} is not a valid open_clip configuration: {error!r}", "", "teacher.model"
        ) from error
    return config


def _builtin_config(model: str, pretrained: str | None) -> dict[str, Any]:
    """The configuration of a named model with these weights."""
    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), 3, 0.4)
        raise ModelError(
            "weights_missing", f"open_clip knows no model {model!r}", f"close matches: {near}", "teacher.model"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    weights: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained or "")  # of a tag; empty for a file
    if not weights and not (pretrained and Path(pretrained).is_file()):
        near = difflib.get_close_matches(pretrained or "", tags, 3, 0.3) or tags[:5]
        raise ModelError(
            "weights_missing",
            f"open_clip has no weights {pretrained!r} for {model}",
            f"known tags: {near}",
            "teacher.pretrained",
        )
    if not weights and not str(pretrained).endswith(".safetensors"):
        raise ModelError(
            "weights_missing",
            f"{pretrained} is not a safetensors file; pickled weights are not read",
            "convert it to safetensors",
            "teacher.pretrained",
        )
    # Many tags need QuickGELU where their model's configuration has GELU: open_clip only warns of that. No tag needs
    # GELU: those that say nothing were trained as the configuration is.
    if weights.get("quick_gelu"):
        config["quick_gelu"] = True
    return config


def _image_features(tower: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = tower(pixels.to(next(tower.parameters()).dtype))
    return F.normalize(features.float(), dim=-1)


def bf16_is_native(device: torch.device) -> bool:
    """Whether bf16 matrix products are faster than fp32 ones here: CUDA, or a CPU with bf16 instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def _in_bf16_where_safe(tower: nn.Module, image_size: int, device: torch.device) -> nn.Module:
    """The image tower with bf16 weights where that is fast and changes no feature by more than rounding.

    Weights, not autocast: on a CPU autocast copies a transformer's weights for every position, and ViT-B/32 is four
    times slower for it. Batch normalisation stays in fp32. The images compared are fixed smooth ones, so the choice is
    the same in every run on a machine.
    """
    if not bf16_is_native(device):
        return tower
    rounded = copy.deepcopy(tower).to(torch.bfloat16)
    for layer, exact_layer in zip(rounded.modules(), tower.modules(), strict=True):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.float().load_state_dict(exact_layer.state_dict())
    coarse = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(coarse, size=(image_size, image_size), mode="bicubic")
    pixels = pixels.to(device, memory_format=torch.channels_last)
    try:
        cosine = (_image_features(tower, pixels) * _image_features(rounded, pixels)).sum(-1).min()
    except RuntimeError:  # a layer that cannot mix bf16 with fp32
        return tower
    return rounded if cosine >= SAME_FEATURES else tower
