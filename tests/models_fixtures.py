"""Tiny random-weight models, saved once in the hubs' own formats and loaded through the production loaders."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from models.clip_directory import save_clip_directory
from starter.tokenizer import CONTEXT_LENGTH, build_tokenizer

WIDTH = 32
IMAGE_SIZE = 64


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A StableDiffusionPipeline of 64 pixels; its images are random but not flat."""
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer_folder)),
        tokenizer=build_tokenizer(tokenizer_folder),
        unet=_unet(WIDTH),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("sd")
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A StableDiffusionXLPipeline of 64 pixels with two text encoders."""
    torch.manual_seed(0)
    unet = _unet(
        2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config(tokenizer_folder)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer_folder)),
        tokenizer=build_tokenizer(tokenizer_folder),
        tokenizer_2=build_tokenizer(tokenizer_folder),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("sdxl")
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """An open_clip directory: `test_resnet` of timm and a one-layer text tower, 64 pixels, 48-wide features."""
    torch.manual_seed(0)
    config = {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "test_resnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "context_length": 20,  # with random weights, what keeps the tests' images away from ties
            "vocab_size": len(build_tokenizer(tokenizer_folder)),
            "hf_tokenizer_name": "tiny",
            "width": WIDTH,
            "heads": 2,
            "layers": 1,
        },
    }
    model = open_clip.CustomTextCLIP(**{name: value for name, value in config.items() if name != "custom_text"})
    folder = tmp_path_factory.mktemp("teacher")
    preprocess = {
        "size": IMAGE_SIZE,
        "mode": "RGB",
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    save_clip_directory(model, folder, model_cfg=config, preprocess_cfg=preprocess, tokenizer_folder=tokenizer_folder)
    return folder


@pytest.fixture(scope="session")
def vit_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """open_clip's ViT-B-32, made small in width, depth and resolution, as a directory on the hub would have it."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("ViT-B-32")
    config["embed_dim"] = 48
    config["vision_cfg"] |= {"image_size": IMAGE_SIZE, "layers": 2, "width": 64}
    config["text_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 1}
    folder = tmp_path_factory.mktemp("vit-teacher")
    preprocess = {
        "size": IMAGE_SIZE,
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    save_clip_directory(open_clip.CLIP(**config), folder, model_cfg=config, preprocess_cfg=preprocess)
    return folder


def _text_config(tokenizer_folder: Path) -> CLIPTextConfig:
    tokenizer = build_tokenizer(tokenizer_folder)
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(cross_attention_dim: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        **more,
    )


def _vae() -> AutoencoderKL:
    """Two halvings, so 64 pixels are 16 x 16 latents."""
    return AutoencoderKL(
        block_out_channels=(16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=IMAGE_SIZE,
    )
