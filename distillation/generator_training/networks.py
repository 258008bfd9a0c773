"""The networks of a generator trained here: one step from noise and text to an image, and the pipeline they become."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from distillation.generator_training.text_encoder import Texts
from models.errors import ModelError
from models.generators import load_generator

LATENT_CHANNELS = 32
PIXELS_PER_LATENT = 8
"""Side in pixels of what one latent is decoded to."""
LAST_TIME = 999
"""The one time step at which the UNet is asked: pure noise."""


class OneStep(nn.Module):
    """Noise and text to pixels, as the pipeline does it in one step.

    Args:
        size: side of the images in pixels, a multiple of 16.
        text_width: width of the text encoder's hidden states.
    """

    def __init__(self, size: int, text_width: int) -> None:
        super().__init__()
        self.latent_side = size // PIXELS_PER_LATENT
        # Attention at the coarser level only; the pooled text also scales and shifts every block (as in ADM), which
        # learns soonest.
        self.unet = UNet2DConditionModel(
            sample_size=self.latent_side,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=text_width,
            attention_head_dim=4,
            norm_num_groups=16,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
            resnet_time_scale_shift="scale_shift",
        )
        self.vae = AutoencoderTiny(
            encoder_block_out_channels=(16,) * 4,
            decoder_block_out_channels=(32,) * 4,
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(2, 2, 1, 0),
            latent_channels=LATENT_CHANNELS,
            scaling_factor=1.0,
        )
        self.vae.encoder.requires_grad_(False)  # text-to-image never encodes

    def draw_noise(self, count: int) -> Tensor:
        """Noise ``(count, 32, side / 8, side / 8)``, drawn on the networks' device."""
        shape = (count, LATENT_CHANNELS, self.latent_side, self.latent_side)
        return torch.randn(shape, device=self.unet.device).contiguous(memory_format=torch.channels_last)

    def forward(self, noise: Tensor, text: Tensor) -> Tensor:
        """Images ``(n, 3, side, side)`` in about [-1, 1].

        Args:
            noise: see :meth:`draw_noise`.
            text: hidden states, ``(n, context, width)``.
        """
        pixels: Tensor = self.vae.decoder(self.latents(noise, text))
        return pixels

    def latents(self, noise: Tensor, text: Tensor) -> Tensor:
        """What is decoded to images, shaped as the noise."""
        times = torch.full((len(noise),), LAST_TIME, device=noise.device)
        # On a CPU the fused attention's backward pass is slower than plain matrix products at these tiny sizes.
        with sdpa_kernel(SDPBackend.MATH) if noise.device.type == "cpu" else nullcontext():
            latents: Tensor = self.unet(noise, times, encoder_hidden_states=text).sample
        return latents


def load_base(folder: str, size: int, device: torch.device) -> tuple[OneStep, Texts]:
    """A generator to go on from, and the texts that it learnt to read.

    Args:
        folder: a pipeline written by :func:`save_pipeline`.
        size: side of the images to be made, whatever the pipeline made.

    Raises:
        ModelError: there is no such pipeline, or it was not trained here.
    """
    pipeline = load_generator(folder, device=torch.device("cpu"), field="base")
    try:
        texts = Texts(pipeline.text_encoder.to(device), pipeline.tokenizer)
        model = OneStep(size, texts.width)
        model.unet.load_state_dict(pipeline.unet.state_dict())
        model.vae.load_state_dict(pipeline.vae.state_dict())
    except (AttributeError, RuntimeError) as error:
        message = f"'{folder}' is not a generator trained here: {str(error).splitlines()[0]}"
        raise ModelError("bad_architecture", message, "name one that was, or leave `base` out", "base") from error
    return model.to(device), texts


def save_pipeline(model: OneStep, texts: Texts, out: Path) -> None:
    """Write a StableDiffusionPipeline in fp16 safetensors."""
    half = copy.deepcopy(model).cpu().half().eval()
    pipeline = StableDiffusionPipeline(
        vae=half.vae,
        text_encoder=copy.deepcopy(texts.encoder).cpu().half(),
        tokenizer=texts.tokenizer,
        unet=half.unet,
        # One step from pure noise: the UNet's answer is the sample.
        scheduler=DDIMScheduler(
            prediction_type="sample", timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
