"""The starter generator's autoencoder: diffusers' AutoencoderTiny, 64 pixels to 8 x 8 x 16 latents.

Loss: L1 on pixels, L1 on the teacher's early features (what makes an image recognisable), and a penalty that keeps
each latent channel near zero mean and unit spread, which is what a diffusion model wants.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

from distillation.views import apply_views, sample_views
from starter.photos import SIDE, load_photos

LATENT_CHANNELS = 16
WIDTH = 48
HALF = torch.tensor([0.5, 0.5, 0.5])


def build_autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 2, 2, 2),
        num_decoder_blocks=(3, 3, 2, 1),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    )


def train_autoencoder(data: Path, teacher: Path, out: Path, *, steps: int, batch_size: int, seed: int) -> None:
    """Train on all training photos and save a diffusers model directory."""
    torch.manual_seed(seed)
    images = torch.from_numpy(load_photos(data, "train").images)
    model: Any = build_autoencoder().to(memory_format=torch.channels_last).train()
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{teacher}")
    critic: Any = clip.visual.trunk.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    began = time.monotonic()
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        views = sample_views(batch_size, scale=(0.5, 1.0), generator=generator)
        pixels = apply_views(images[rows], views, SIDE, HALF, HALF)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encoder(pixels).float()
            noisy = latents + 0.1 * torch.randn_like(latents)
            decoded = model.decoder(noisy).float()
            feature_loss = _feature_distance(critic, decoded, pixels)
        mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = mean.square().mean() + (deviation - 1).square().mean()
        pixel_loss = F.l1_loss(decoded, pixels)
        loss = pixel_loss + 0.3 * feature_loss + 0.02 * spread
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
        if (step + 1) % 25 == 0:
            rate = (step + 1) * batch_size / (time.monotonic() - began)
            figures = {"step": step + 1, "l1": round(pixel_loss.item(), 4), "features": round(feature_loss.item(), 4)}
            print(json.dumps(figures | {"photos_per_s": round(rate)}), flush=True)
    trained: Any = average.module.eval()
    with torch.inference_mode():
        sample = apply_views(images[:512], sample_views(512, scale=(1.0, 1.0), generator=generator), SIDE, HALF, HALF)
        spread_found = float(trained.encoder(sample).std())
    trained.register_to_config(scaling_factor=1 / spread_found)
    trained.save_pretrained(out)


def _feature_distance(critic: Any, decoded: Tensor, pixels: Tensor) -> Tensor:
    """L1 between the teacher's first two feature maps of both images, each scaled to unit spread."""
    both = torch.cat([decoded, pixels])
    maps = critic.forward_intermediates(both, indices=[1, 2], stop_early=True, intermediates_only=True)
    total = torch.zeros(())
    for features in maps:
        ours, theirs = features.float().chunk(2)
        total = total + F.l1_loss(ours, theirs.detach()) / theirs.detach().std()
    return total
