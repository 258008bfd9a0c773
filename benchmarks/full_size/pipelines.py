"""Text-to-image pipelines, LoRAs and teachers of the sizes that the shipped recipes name, with random weights.

Neither speed nor memory depends on the weights. Each is written as its hub has it, so that the product loads it as it
loads any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.lora_pipeline import LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from models.clip_directory import save_clip_directory
from starter.tokenizer import build_tokenizer

VOCABULARY, CONTEXT_LENGTH = 49_408, 77
LCM_LORA_RANK = 64
LCM_LORA_MODULES = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]


@dataclass(frozen=True)
class Shape:
    """Sizes of a pipeline, under the names of its networks' configurations.

    Args:
        texts: of each text encoder; the last of two ends in a projection.
    """

    texts: tuple[dict[str, Any], ...]
    vae: dict[str, Any]
    unet: dict[str, Any]


CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768}
OPENCLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "projection_dim": 1280}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SD = Shape(
    texts=({**CLIP_L, "hidden_act": "quick_gelu"},),
    vae={**VAE, "sample_size": 512, "scaling_factor": 0.18215},
    unet={
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
)
"""Stable Diffusion 1.5."""
SDXL = Shape(
    texts=({**CLIP_L, "hidden_act": "quick_gelu"}, {**OPENCLIP_G, "hidden_act": "gelu"}),
    vae={**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    unet={
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    },
)


def save_sd(folder: Path) -> Path:
    """Write a pipeline of the shape ``SD``, in half precision."""
    tokenizer = _tokenizer(folder.with_name("tokenizer"))
    parts = {**_networks(SD, tokenizer), "tokenizer": tokenizer}
    absent = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(**parts, **absent).save_pretrained(folder, safe_serialization=True)
    return folder


def save_sdxl(folder: Path) -> Path:
    """Write a pipeline of the shape ``SDXL``, in half precision."""
    tokenizer = _tokenizer(folder.with_name("tokenizer"))
    parts = {**_networks(SDXL, tokenizer), "tokenizer": tokenizer, "tokenizer_2": tokenizer}
    StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(folder, safe_serialization=True)
    return folder


def save_lcm_lora(pipeline: Path, folder: Path, rank: int = LCM_LORA_RANK) -> Path:
    """Write a LoRA for a pipeline's UNet, as the LCM LoRAs on the hub are: kohya's names, convolutions included.

    A last name with `lcm` in it brings the scheduler along, see :func:`models.generators.load_generator`.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(pipeline, subfolder="unet", torch_dtype=torch.float16)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=1, target_modules=LCM_LORA_MODULES, init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    folder.mkdir(parents=True)
    weights = convert_state_dict_to_kohya({f"unet.{name}": tensor for name, tensor in layers.items()})
    save_file({name: tensor.half().contiguous() for name, tensor in weights.items()}, folder / LORA_WEIGHT_NAME_SAFE)
    return folder


def save_teacher(model: str, folder: Path) -> Path:
    """Write an open_clip model, given by its name, as a directory."""
    torch.manual_seed(0)
    preprocess = {
        "size": open_clip.get_model_config(model)["vision_cfg"]["image_size"],
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    network = open_clip.create_model(model)
    save_clip_directory(network, folder, model_cfg=open_clip.get_model_config(model), preprocess_cfg=preprocess)
    return folder


def _networks(shape: Shape, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Scheduler and networks of a pipeline, in half precision, made where random numbers come fastest."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        texts = [
            kind(CLIPTextConfig(**_text_config(sizes, tokenizer))).half()
            for kind, sizes in zip((CLIPTextModel, CLIPTextModelWithProjection), shape.texts, strict=False)
        ]
        networks = {
            "vae": AutoencoderKL(latent_channels=4, **shape.vae).half(),
            "unet": UNet2DConditionModel(in_channels=4, out_channels=4, **{"layers_per_block": 2, **shape.unet}).half(),
            **dict(zip(("text_encoder", "text_encoder_2"), texts, strict=False)),
        }
    # Outside the device: schedulers compute with numpy.
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return {**networks, "scheduler": EulerDiscreteScheduler(**betas, steps_offset=1)}


def _text_config(sizes: dict[str, Any], tokenizer: CLIPTokenizer) -> dict[str, Any]:
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    length = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT_LENGTH}
    return {**length, **marks, "intermediate_size": 4 * sizes["hidden_size"], **sizes}


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """The starter's, made as long as the full-size models': it knows fewer words, and every prompt is padded anyway."""
    tokenizer = build_tokenizer(folder)
    tokenizer.model_max_length = CONTEXT_LENGTH
    return tokenizer
