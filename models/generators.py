"""Loads any diffusers text-to-image pipeline, from a hub at a pinned revision or from a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, LCMScheduler
from torch import nn

from models.errors import ModelError
from models.hub import explain_hub_error, is_path
from models.teachers import bf16_is_native

FIELD = "data.generator.model"
IN_PLACE_FORMATS = ("unet", "vae", "transformer")


def load_generator(
    model: str,
    *,
    device: torch.device,
    revision: str | None = None,
    lora: str | None = None,
    decoder: str | None = None,
    field: str = FIELD,
) -> DiffusionPipeline:
    """Load a pipeline, ready to sample: on its device, in its precision, in channels-last memory.

    Weights are read from safetensors only, never from a pickle. On CUDA they are fp16, or bf16 where the pipeline's
    decoder overflows in fp16 (SDXL) or was trained in bf16; on a CPU they stay fp32, see :func:`autocast_dtype`.
    Safety checkers and watermarks are left out: images for training are filtered by the teacher instead.

    Args:
        model: a hub id (``org/name``), or the directory of a pipeline.
        revision: the hub id's commit.
        lora: a LoRA fused into the pipeline: a directory, a safetensors file, ``org/name`` or ``org/name@commit``.
            One with `lcm` in its name also sets the LCM scheduler, without which its few steps give noise.
        decoder: an AutoencoderTiny in place of the pipeline's own decoder: a directory or ``org/name@commit``.
        field: the recipe's field that names the model, for errors.

    Raises:
        ModelError: weights_missing, weights_gated or hub_unreachable.
    """
    if is_path(model) and not (Path(model) / "model_index.json").is_file():
        raise ModelError(
            "weights_missing",
            f"'{model}' is not a diffusers pipeline: it has no model_index.json",
            "give the directory written by diffusers' save_pretrained, or a hub id with `revision`",
            field,
        )
    try:
        config = DiffusionPipeline.load_config(model, revision=revision)
        absent: dict[str, Any] = {name: None for name in ("safety_checker", "feature_extractor") if name in config}
        if "requires_safety_checker" in config:
            absent["requires_safety_checker"] = False
        pipeline = DiffusionPipeline.from_pretrained(
            model, revision=revision, dtype=_weight_dtype(config, device), use_safetensors=True, **absent
        )
    except Exception as error:
        raise explain_hub_error(error, f"the generator '{model}'", field) from error
    if lora is not None:
        _fuse_lora(pipeline, lora)
    if decoder is not None:
        _replace_decoder(pipeline, decoder)
    if getattr(pipeline, "watermark", None) is not None:
        pipeline.watermark = None
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for name in IN_PLACE_FORMATS:
        part = getattr(pipeline, name, None)
        if isinstance(part, nn.Module):
            part.to(memory_format=torch.channels_last)
    return pipeline


def default_size(pipeline: DiffusionPipeline) -> int:
    """The side in pixels that the pipeline was made for.

    Raises:
        ModelError: the pipeline does not say.
    """
    config = getattr(getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None), "config", None)
    side = getattr(pipeline, "default_sample_size", None) or getattr(config, "sample_size", None)
    if not isinstance(side, int):
        message = f"{type(pipeline).__name__} does not say its image size"
        raise ModelError("bad_architecture", message, "give data.generator.size", "data.generator.size")
    return side * int(getattr(pipeline, "vae_scale_factor", 1))


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype to sample in under autocast, or None for the weights' own.

    On a CPU with bf16 instructions matrix products run about twice as fast in bf16; without them they are emulated
    and slower than fp32. The choice follows the processor, not a timing, so that a seed gives the same image again.
    """
    return torch.bfloat16 if device.type == "cpu" and bf16_is_native(device) else None


def _weight_dtype(config: dict[str, Any], device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    fp16 = config["_class_name"] == "StableDiffusionPipeline" or not torch.cuda.is_bf16_supported()
    return torch.float16 if fp16 else torch.bfloat16


def _replace_decoder(pipeline: DiffusionPipeline, decoder: str) -> None:
    field = "data.generator.decoder"
    name, revision = _with_commit(decoder)
    if is_path(name) and not Path(name).exists():
        raise ModelError("weights_missing", f"there is no decoder at '{name}'", "check its path", field)
    own = getattr(pipeline, "vae", None)
    if own is None:
        message = f"{type(pipeline).__name__} decodes no latents"
        raise ModelError("bad_architecture", message, "leave data.generator.decoder out", field)
    try:
        tiny = AutoencoderTiny.from_pretrained(name, revision=revision, dtype=own.dtype, use_safetensors=True)
    except Exception as error:
        raise explain_hub_error(error, f"the decoder '{decoder}'", field) from error
    if tiny.config.latent_channels != own.config.latent_channels:
        message = f"the decoder takes {tiny.config.latent_channels} latent channels, the pipeline's has "
        message += str(own.config.latent_channels)
        raise ModelError("bad_architecture", message, "name the tiny decoder of this pipeline's family", field)
    pipeline.register_modules(vae=tiny)


def _with_commit(name: str) -> tuple[str, str | None]:
    """A directory, or ``org/name`` and its commit."""
    if is_path(name):
        return name, None
    model, _, revision = name.partition("@")
    return model, revision or None


def _fuse_lora(pipeline: DiffusionPipeline, lora: str) -> None:
    name, revision = _with_commit(lora)
    if not hasattr(pipeline, "load_lora_weights"):
        message = f"{type(pipeline).__name__} takes no LoRA"
        raise ModelError("bad_architecture", message, "leave data.generator.lora out", "data.generator.lora")
    if is_path(name) and not Path(name).exists():
        raise ModelError("weights_missing", f"there is no LoRA at '{name}'", "check its path", "data.generator.lora")
    try:
        pipeline.load_lora_weights(name, revision=revision, use_safetensors=True)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except Exception as error:
        raise explain_hub_error(error, f"the LoRA '{lora}'", "data.generator.lora") from error
    if "lcm" in Path(name).name.lower():
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
