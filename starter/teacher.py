"""The starter teacher: a small open_clip model trained contrastively on Tiny ImageNet captions.

First the text tower learns that captions of one class belong together and those of others do not. Then it is locked
(as in LiT) and the image tower is trained against it. The loss is label-aware: a photo's positive is a caption of its
class and one caption of every other class is a negative, so two photos of one class are never pushed apart.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.views import apply_views, sample_views
from models.clip_directory import save_clip_directory
from models.memory import keep_freed_memory
from starter.mixing import jitter, mix
from starter.photos import class_names, load_photos
from starter.tokenizer import CONTEXT_LENGTH, build_tokenizer

IMAGE_SIZE = 96
EMBED_DIM = 256
LEARNING_RATE, RATE_BATCH, LARGEST_RATE = 2e-3, 128, 4e-3
"""Peak rate at a batch of ``RATE_BATCH``; it grows with the square root of the batch up to the largest."""
# Small views teach as much in half of the time. Change the size early: at a low rate nothing adapts to it.
VIEW_SIZES = ((0.4, 64), (1.0, IMAGE_SIZE))
EMA_DECAY = 0.999
LONG_PASSES = 30
"""From so many passes over the photos on, a network learns them by heart unless they are varied more and mixed."""
SPREAD = 40.0
"""Weight of the squared cosines between the texts of two classes."""
Tokenize = Callable[[list[str]], Tensor]
PREPROCESS = {
    "size": IMAGE_SIZE,
    "mode": "RGB",
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bilinear",
    "resize_mode": "shortest",
}
CAPTIONS = (
    "a photo of a {}", "a photo of the {}", "a photo of one {}", "a photo of a small {}", "a photo of a large {}",
    "a close-up photo of a {}", "a bright photo of a {}", "a dark photo of a {}", "a blurry photo of a {}",
    "a cropped photo of a {}", "a good photo of a {}", "a photo of my {}", "a picture of a {}", "an image of a {}",
    "a {} outdoors", "a {} indoors", "a {} in the wild", "a {} on a table", "a {} seen from above",
    "a {} seen from the side", "a {} in daylight", "a {} at night", "a photo of a {}, a type of thing", "{}",
)  # fmt: skip


def model_config(vocab_size: int) -> dict[str, Any]:
    """The open_clip configuration: a ResNet-18-D image tower and a three-layer text tower."""
    return {
        "embed_dim": EMBED_DIM,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "resnet18d",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "starter",
            "width": 192,
            "heads": 3,
            "layers": 3,
        },
    }


def text_tower_step(clip: nn.Module, tokens: Tensor, logit_scale: float = 20.0) -> Tensor:
    """Contrastive loss between two captions of every class, plus the mean squared cosine between classes, weighted.

    The contrastive loss alone is content with classes in a small subspace, where images are slow to find them.

    Args:
        tokens: ``(2, classes, context)``.
    """
    one, other = F.normalize(clip.encode_text(tokens.flatten(0, 1)).float(), dim=-1).chunk(2)  # type: ignore[operator]
    cosines, labels = one @ other.t(), torch.arange(len(one), device=one.device)
    logits = logit_scale * cosines
    contrastive = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
    return contrastive + SPREAD * (cosines - torch.diag(cosines.diagonal())).square().mean()


def train_text_tower(clip: nn.Module, captions: list[list[str]], tokenize: Tokenize, *, steps: int, seed: int) -> None:
    """Train the text tower alone; photos are not needed to tell the classes' names apart."""
    optimiser = torch.optim.AdamW(clip.text.parameters(), lr=1e-3, weight_decay=0.01, fused=True)  # type: ignore[union-attr]
    device = next(clip.parameters()).device
    for step in range(steps):
        chooser = random.Random(seed * 1_000_003 + step)
        pairs = [chooser.sample(texts, 2) for texts in captions]
        tokens = tokenize([first for first, _ in pairs] + [second for _, second in pairs])
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * cosine(step, steps, warmup=0.1)
        with torch.autocast(device.type, torch.bfloat16):
            loss = text_tower_step(clip, tokens.to(device).unflatten(0, (2, len(captions))))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.text.parameters(), 1.0)  # type: ignore[union-attr]
        optimiser.step()
        if (step + 1) % 50 == 0:
            print(json.dumps({"text_step": step + 1, "loss": round(loss.item(), 4)}), flush=True)


def cosine(step: int, steps: int, *, warmup: float) -> float:
    """Learning-rate factor: linear rise, then a half cosine to zero."""
    rise = max(1.0, warmup * steps)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def train_teacher(data: Path, out: Path, *, steps: int, batch_size: int, seed: int, work: Path) -> None:
    """Train on a GPU where there is one, or resume from ``work``, and write the open_clip directory ``out``.

    ``VIEW_SIZES`` gives the side of the views up to each fraction of the steps.
    """
    torch.manual_seed(seed)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = class_names(data)
    captions = [[text.format(name) for name in synonyms for text in CAPTIONS] for synonyms in names]
    tokenizer_folder = work / "tokenizer"
    tokenizer = build_tokenizer(tokenizer_folder)

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor(
            tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH).input_ids
        )

    config = model_config(len(tokenizer))
    clip = open_clip.CustomTextCLIP(**{k: v for k, v in config.items() if k != "custom_text"}, init_logit_scale=3.0)
    clip = clip.to(device, memory_format=torch.channels_last).train()
    checkpoint, start = work / "teacher.pt", 0
    saved = torch.load(checkpoint, weights_only=True, map_location=device) if checkpoint.exists() else None
    if saved is None:
        train_text_tower(clip, captions, tokenize, steps=90, seed=seed)
    else:
        clip.load_state_dict(saved["model"])
    clip.text.requires_grad_(False).eval()
    bank = caption_bank(clip, captions, tokenize, seed=seed)
    decay = [p for p in clip.visual.parameters() if p.ndim >= 2]
    plain = [*(p for p in clip.visual.parameters() if p.ndim < 2), clip.logit_scale]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], fused=True
    )
    swa = torch.optim.swa_utils
    average = swa.AveragedModel(clip.visual, multi_avg_fn=swa.get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    if saved is not None:
        optimiser.load_state_dict(saved["optimiser"])
        average.load_state_dict(saved["average"])
        start = saved["step"]
    photos = load_photos(data, "train")
    images, labels = torch.from_numpy(photos.images).to(device), torch.from_numpy(photos.labels).to(device)
    mean, std = torch.tensor(PREPROCESS["mean"], device=device), torch.tensor(PREPROCESS["std"], device=device)
    peak = min(LARGEST_RATE, LEARNING_RATE * (batch_size / RATE_BATCH) ** 0.5)
    long = steps * batch_size >= LONG_PASSES * len(images)
    encode = torch.compile(clip.visual, dynamic=False) if device.type == "cuda" else clip.visual
    began = time.monotonic()
    for step in range(start, steps):
        torch.manual_seed(seed * 1_000_003 + step)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(images), (batch_size,), generator=generator).to(device)
        views = sample_views(batch_size, scale=(0.4, 1.0), generator=generator)
        size = next(size for until, size in VIEW_SIZES if step < until * steps)
        pixels = apply_views(images[rows], views, size, mean, std)
        mixed = [(labels[rows], 1.0)]
        if long:
            pixels, other, share = mix(jitter(pixels), float(torch.rand((), generator=generator)) / 2)
            mixed = [(labels[rows], 1 - share), (labels[rows[other]], share)]
        chosen = torch.randint(bank.shape[1], (len(bank),), generator=generator)
        texts = bank[torch.arange(len(bank)), chosen]
        for group in optimiser.param_groups:
            group["lr"] = peak * cosine(step, steps, warmup=0.02)
        with torch.autocast(device.type, torch.bfloat16):
            features = encode(pixels)
        logits = clip.logit_scale.exp() * F.normalize(features.float(), dim=-1) @ texts.t()
        parts = [part * F.cross_entropy(logits, label, label_smoothing=0.05) for label, part in mixed]
        loss = torch.stack(parts).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.visual.parameters(), 2.0)
        optimiser.step()
        average.update_parameters(clip.visual)
        with torch.no_grad():
            clip.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * batch_size / (time.monotonic() - began)
            right = (logits.argmax(1) == labels[rows]).float().mean().item()
            figures = {"step": step + 1, "loss": round(loss.item(), 4), "batch_acc1": round(right, 3)}
            print(json.dumps(figures | {"photos_per_s": round(rate)}), flush=True)
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {
                "model": clip.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    clip.visual.load_state_dict(average.module.state_dict())
    save_clip_directory(
        clip.cpu(),
        out,
        model_cfg=config,
        preprocess_cfg=PREPROCESS,
        tokenizer_folder=tokenizer_folder,
        dtype=torch.float16,
    )


@torch.inference_mode()
def caption_bank(
    clip: nn.Module, captions: list[list[str]], tokenize: Tokenize, *, seed: int, kept: int = 24
) -> Tensor:
    """Features of some captions of each class, ``(classes, kept, embed_dim)``: the locked tower runs only once."""
    chooser, device = random.Random(seed), next(clip.parameters()).device
    drawn = [tokenize(chooser.choices(texts, k=kept)).to(device) for texts in captions]
    rows = [clip.encode_text(tokens, normalize=True) for tokens in drawn]  # type: ignore[operator]
    return torch.stack(rows).clone()
