"""The starter generator: a tiny latent diffusion model saved as a standard StableDiffusionPipeline.

Text-conditional through CLIPTextModel (started from the teacher's text tower), v-prediction with zero terminal SNR,
min-SNR weighting, classifier-free guidance, sampled by DPM-Solver++ in a few steps.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderTiny,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from distillation.views import apply_views, sample_views, whole_views
from starter.autoencoder import HALF, LATENT_CHANNELS
from starter.captions import caption
from starter.photos import SIDE, class_names, load_photos
from starter.tokenizer import CONTEXT_LENGTH

LATENT_SIDE = 8
TEXT_WIDTH = 192
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


def build_unet() -> UNet2DConditionModel:
    """Attention at 4 x 4 only; the pooled text also scales and shifts every block (as in ADM), which learns soonest."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, 176),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def text_encoder_from_teacher(teacher: Path) -> CLIPTextModel:
    """The teacher's text tower as a transformers CLIPTextModel (same architecture, other names)."""
    tower = open_clip.create_model_and_transforms(f"local-dir:{teacher}")[0].text
    tokenizer = CLIPTokenizer.from_pretrained(teacher)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=len(tower.transformer.resblocks),
        num_attention_heads=tower.transformer.resblocks[0].attn.num_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=TEXT_WIDTH,
    )
    model = CLIPTextModel(config)
    inner = getattr(model, "text_model", model)
    with torch.no_grad():
        inner.embeddings.token_embedding.weight.copy_(tower.token_embedding.weight)
        inner.embeddings.position_embedding.weight.copy_(tower.positional_embedding)
        for theirs, ours in zip(tower.transformer.resblocks, inner.encoder.layers, strict=True):
            weights = theirs.attn.in_proj_weight.chunk(3)
            biases = theirs.attn.in_proj_bias.chunk(3)
            names = ("q_proj", "k_proj", "v_proj")
            for name, weight, bias in zip(names, weights, biases, strict=True):
                getattr(ours.self_attn, name).weight.copy_(weight)
                getattr(ours.self_attn, name).bias.copy_(bias)
            pairs = [
                (theirs.attn.out_proj, ours.self_attn.out_proj),
                (theirs.ln_1, ours.layer_norm1),
                (theirs.ln_2, ours.layer_norm2),
                (theirs.mlp.c_fc, ours.mlp.fc1),
                (theirs.mlp.c_proj, ours.mlp.fc2),
            ]
            for source, target in pairs:
                target.load_state_dict(source.state_dict())
        inner.final_layer_norm.load_state_dict(tower.ln_final.state_dict())
    return model


@torch.inference_mode()
def encode_latents(vae: AutoencoderTiny, images: Tensor, views: Tensor) -> Tensor:
    """Scaled latents of cropped photos, float16 ``(n, 16, 8, 8)``."""
    out = []
    for rows in torch.arange(len(images)).split(256):
        pixels = apply_views(images[rows], views[rows], SIDE, HALF, HALF)
        with torch.autocast("cpu", torch.bfloat16):
            out.append((vae.encoder(pixels).float() * vae.config.scaling_factor).half())
    return torch.cat(out)


def train_generator(
    data: Path,
    teacher: Path,
    vae_folder: Path,
    out: Path,
    work: Path,
    *,
    labels: list[int],
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Train the denoiser and text encoder, or resume from ``work``, and save the pipeline to ``out``.

    Args:
        labels: the Tiny ImageNet classes to learn.
    """
    torch.manual_seed(seed)
    chooser = random.Random(seed)
    names = class_names(data)
    photos = load_photos(data, "train")
    chosen = np.isin(photos.labels, labels)
    images, classes = torch.from_numpy(photos.images[chosen]), photos.labels[chosen]
    vae = AutoencoderTiny.from_pretrained(vae_folder).to(memory_format=torch.channels_last).eval()
    tokenizer = CLIPTokenizer.from_pretrained(teacher)
    generator = torch.Generator().manual_seed(seed)
    latents: list[Tensor] = []
    captions: list[list[str]] = []
    for close in (False, False, True):
        views = (
            sample_views(len(images), scale=(0.4, 0.65), ratio=(1, 1), generator=generator)
            if close
            else whole_views(len(images))
        )
        if not close:
            views[:, 4] = float(len(latents))  # the whole photo once as it is and once mirrored
        latents.append(encode_latents(vae, images, views))
        captions += [
            [caption(chooser.choice(names[label][:2]), image, close=close, chooser=chooser) for _ in range(4)]
            for label, image in zip(classes, images.numpy(), strict=True)
        ]
    targets = torch.cat(latents)
    model = build_unet().to(memory_format=torch.channels_last).train()
    text_encoder = text_encoder_from_teacher(teacher).train()
    both = torch.nn.ModuleList([model, text_encoder])
    optimiser = torch.optim.AdamW(both.parameters(), lr=8e-4, weight_decay=0.01, fused=True)
    average = torch.optim.swa_utils.AveragedModel(both, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    noise_schedule = DDPMScheduler(**SCHEDULE)
    alphas = noise_schedule.alphas_cumprod
    checkpoint, start = work / "generator.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        both.load_state_dict(saved["both"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
    began = time.monotonic()
    for step in range(start, steps):
        picker = random.Random(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(targets), (batch_size,))
        texts = ["" if picker.random() < 0.1 else picker.choice(captions[row]) for row in rows.tolist()]
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt")
        clean = targets[rows].float()
        noise = torch.randn_like(clean)
        times = torch.randint(1000, (batch_size,))
        noisy = noise_schedule.add_noise(clean, noise, times).contiguous(memory_format=torch.channels_last)
        velocity = noise_schedule.get_velocity(clean, noise, times)
        for group in optimiser.param_groups:
            group["lr"] = (
                8e-4 * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            )
        # On a CPU the fused attention's backward pass is slower than plain matrix products at these tiny sizes.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            states = text_encoder(tokens.input_ids)[0]
            predicted = model(noisy, times, encoder_hidden_states=states).sample.float()
        snr = alphas[times] / (1 - alphas[times]).clamp(min=1e-8)
        weight = snr.clamp(max=5.0) / (snr + 1) + 0.1  # min-SNR for v-prediction, with a floor for pure noise
        loss = (weight * (predicted - velocity).square().mean((1, 2, 3))).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(both)
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * batch_size / (time.monotonic() - began)
            mse = F.mse_loss(predicted, velocity).item()
            print(json.dumps({"step": step + 1, "mse": round(mse, 4), "samples_per_s": round(rate)}), flush=True)
        if (step + 1) % 300 == 0 or step + 1 == steps:
            state = {
                "both": both.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            save_pipeline(average.module.children(), vae_folder, tokenizer, out)


def save_pipeline(trained: Iterable[torch.nn.Module], vae_folder: Path, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write a StableDiffusionPipeline in fp16 safetensors."""
    unet, text_encoder = trained
    vae = AutoencoderTiny.from_pretrained(vae_folder)
    vae.register_to_config(_name_or_path="")  # else the folder's path on this machine is saved with it
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    half = copy.deepcopy({"unet": unet, "text_encoder": text_encoder})
    pipeline.register_modules(unet=half["unet"].half().eval(), text_encoder=half["text_encoder"].half().eval())
    pipeline.vae.half()
    pipeline.save_pretrained(out)
