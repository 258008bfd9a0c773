"""Training of the starter generator: a tiny one-step text-to-image network saved as a standard StableDiffusionPipeline.

Frozen CLIPTextModel (the teacher's text tower), a UNet that turns noise into 8 x 8 latents, AutoencoderTiny's decoder;
UNet and decoder are trained end to end: no diffusion and no autoencoding, which two CPU cores could not afford. The
drifting loss gives images the photos' distribution, small discriminators give them local detail.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from distillation.views import apply_views
from starter.captions import UNSAID, caption
from starter.critic import VIEWS, Critic, PhotoBank, draw_views, noisy
from starter.discriminators import Discriminators, discriminator_loss
from starter.drifting import drifting_loss
from starter.one_step import LATENT_CHANNELS, LATENT_SIDE, OneStep, Texts, save_pipeline
from starter.photos import SIDE, class_names, load_photos

SAME_CLASS = 8
"""Images of one class in a batch: they repel each other."""
PHOTOS_OF_CLASS = 64
GENERATOR_RATE, DISCRIMINATOR_RATE = 5e-4, 1e-3
SAVE_STEPS = 250


def train_generator(
    data: Path, teacher: Path, out: Path, work: Path, *, labels: list[int], steps: int, batch_size: int, seed: int
) -> None:
    """Train the generator, or resume from ``work``, and save the pipeline to ``out``.

    Args:
        labels: the Tiny ImageNet classes to learn.
        batch_size: a multiple of ``SAME_CLASS``.
    """
    torch.manual_seed(seed)
    names = [class_names(data)[label][:2] for label in labels]
    photos = load_photos(data, "train")
    chosen = np.isin(photos.labels, labels)
    classes = torch.tensor([labels.index(label) for label in photos.labels[chosen].tolist()])
    critic, texts = Critic(teacher, [f"a photo of a {name}" for name, *_ in names]), Texts(teacher)
    bank = PhotoBank.fill(critic, torch.from_numpy(photos.images[chosen]), classes)
    model = OneStep().to(memory_format=torch.channels_last).train()
    discriminators = Discriminators(len(labels)).to(memory_format=torch.channels_last)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimisers = [
        torch.optim.Adam(parameters, betas=(0.0, 0.99), fused=True)
        for parameters in (trained, discriminators.parameters())
    ]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    kept: dict[str, Any] = {"model": model, "average": average, "discriminators": discriminators}
    kept |= {f"optimiser{number}": optimiser for number, optimiser in enumerate(optimisers)}
    checkpoint, start = work / "generator.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        start = saved.pop("step")
        for name, state in saved.items():
            kept[name].load_state_dict(state)
    recognised = torch.full((len(labels),), 0.5)
    of_class = [torch.nonzero(classes == number)[:, 0] for number in range(len(labels))]
    began = time.monotonic()
    for step in range(start, steps):
        torch.manual_seed(seed * 1_000_003 + step)
        chooser = random.Random(seed * 1_000_003 + step)
        for optimiser, rate in zip(optimisers, (GENERATOR_RATE, DISCRIMINATOR_RATE), strict=True):
            optimiser.param_groups[0]["lr"] = rate * _schedule(step, steps)
        # Classes that the teacher recognises less often are drawn more often.
        drawn = torch.multinomial(1.1 - recognised, batch_size // SAME_CLASS)
        rows = torch.cat([_choose(of_class[number], SAME_CLASS) for number in drawn.tolist()])
        said = bank.said[rows].clone()
        said[:, 1:][torch.rand(len(rows), 2) < 0.5] = UNSAID
        captions = [
            caption(chooser.choice(names[number]), light, background, chooser)
            for number, light, background in said.tolist()
        ]
        noise = torch.randn(len(rows), LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
        with torch.autocast("cpu", torch.bfloat16):
            made = critic.crop(
                model(noise.contiguous(memory_format=torch.channels_last), texts(captions)), draw_views(len(rows))
            )
            maps, summaries = critic.look(made)
        right = ((summaries[0].detach() @ critic.head.t()).argmax(1) == said[:, 0]).float().view(len(drawn), -1)
        recognised[drawn] = recognised[drawn].lerp(right.mean(1), 0.05)
        maps = [part * scale for part, scale in zip(maps, bank.map_scale, strict=True)]
        judged = _discriminate(discriminators, optimisers[1], critic, bank, rows, said, made, maps)
        with torch.autocast("cpu", torch.bfloat16):
            scores = discriminators.requires_grad_(False)(made, maps, said)
        adversarial = -torch.stack([score.mean() for score in scores]).mean()
        drifting = _drifting(bank, summaries, [_choose(of_class[number], PHOTOS_OF_CLASS) for number in drawn.tolist()])
        optimisers[0].zero_grad()
        (drifting + adversarial).backward()
        nn.utils.clip_grad_norm_(trained, 5.0)
        optimisers[0].step()
        discriminators.requires_grad_(True)
        average.update_parameters(model)
        if (step + 1) % 50 == 0:
            rate = (step + 1 - start) * batch_size / (time.monotonic() - began)
            figures = {"adversarial": adversarial.item(), "discriminators": judged.item(), "drifting": drifting.item()}
            figures["recognised"] = recognised.mean().item()
            rounded = {name: round(value, 3) for name, value in figures.items()}
            print(json.dumps({"step": step + 1, **rounded, "images_per_s": round(rate)}), flush=True)
        if (step + 1) % SAVE_STEPS == 0 or step + 1 == steps:
            torch.save(
                {"step": step + 1, **{name: part.state_dict() for name, part in kept.items()}},
                checkpoint.with_suffix(".new"),
            )
            checkpoint.with_suffix(".new").replace(checkpoint)
            save_pipeline(cast(OneStep, average.module), texts, out)


def _schedule(step: int, steps: int) -> float:
    """A short rise, then constant, then a cosine fall over the last 40 %."""
    fall = max(0.0, (step / steps - 0.6) / 0.4)
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


def _choose(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))]


def _discriminate(
    discriminators: Discriminators,
    optimiser: torch.optim.Optimizer,
    critic: Critic,
    bank: PhotoBank,
    rows: Tensor,
    said: Tensor,
    made: Tensor,
    maps: list[Tensor],
) -> Tensor:
    """One step of the discriminators; returns their loss."""
    which = torch.randint(VIEWS, (len(rows),))
    pixels = noisy(apply_views(bank.images[rows], bank.views[rows, which], SIDE, critic.mean, critic.std))
    both = [
        torch.cat([photo[rows, which].permute(0, 3, 1, 2).to(ours.dtype) * scale, ours.detach()])
        for photo, ours, scale in zip(bank.maps, maps, bank.map_scale, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        scores = discriminators(torch.cat([pixels, made.detach()]), both, said.repeat(2, 1))
    halves = [score.chunk(2) for score in scores]
    loss = discriminator_loss([real for real, _ in halves], [fake for _, fake in halves])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()


def _drifting(bank: PhotoBank, summaries: list[Tensor], rows: list[Tensor]) -> Tensor:
    """Mean drifting loss over all summaries.

    Args:
        rows: photos to drift to, one tensor for each class of the batch.
    """
    total = torch.zeros(())
    chosen = torch.stack(rows)
    which = torch.randint(VIEWS, chosen.shape)
    for made, photos, scale in zip(summaries, bank.summaries, bank.summary_scale, strict=True):
        ours = made.view(len(rows), -1, made.shape[1]) * scale
        total = total + drifting_loss(ours, photos[chosen, which].float() * scale)
    return total / len(summaries)
