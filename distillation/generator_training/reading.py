"""A base generator learns to read what the teacher's text encoder writes, as it read its own.

A text encoder tells apart the classes that it was trained on, and a base's may be of another teacher: classes that lie
close together in it are hard to draw apart. So the layers that read text learn, before the training and by the base's
own answers (distillation, arXiv 1503.02531), to find the same in the teacher's texts; all other layers stay.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distillation.generator_training.captions import COLOURS, LIGHT, UNSAID, caption
from distillation.generator_training.networks import LATENT_CHANNELS, PIXELS_PER_LATENT, OneStep
from distillation.generator_training.text_encoder import Texts

STEPS, BATCH, RATE = 600, 32, 3e-3
WARMUP_STEPS = 20
CAPTIONS = 2000
SIDE = 4
"""Of the latents in these steps: what text does is the same at every size, and costs least at the smallest."""
ATOL = 0.05
"""Of hidden states, whose deviation is about 1: a base's encoder is kept in fp16."""


def read_anew(
    base: OneStep,
    before: Texts,
    texts: Texts,
    names: Sequence[Sequence[str]],
    seed: int,
    on_step: Callable[[int], None],
) -> OneStep:
    """The base's networks, which now read ``texts`` and make of them what ``base`` makes of ``before``.

    Args:
        base: it is left as it is.
        before: the texts that it reads.
        names: of each class, for captions.
        on_step: told how many steps are done.
    """
    device = base.unet.device
    torch.manual_seed(seed)
    model = OneStep(base.latent_side * PIXELS_PER_LATENT, texts.width).to(device)
    fresh = model.state_dict()
    model.load_state_dict(fresh | {k: v for k, v in base.state_dict().items() if v.shape == fresh[k].shape})
    readers = [weight for layer in _readers(model.unet) for weight in layer.parameters()]
    optimizer = torch.optim.Adam(readers, lr=RATE)
    chooser = random.Random(seed)
    captions = [_any_caption(names, chooser) for _ in range(CAPTIONS)]
    theirs, ours = before(captions), texts(captions)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / STEPS)
        rows = torch.randint(CAPTIONS, (BATCH,), device=device)
        noise = torch.randn(BATCH, LATENT_CHANNELS, SIDE, SIDE, device=device)
        with torch.no_grad():
            wanted = base.latents(noise, theirs[rows])
        loss = F.mse_loss(model.latents(noise, ours[rows]), wanted)
        optimizer.zero_grad()
        loss.backward(inputs=readers)
        optimizer.step()
        on_step(step + 1)
    return model


def reads_alike(before: Texts, texts: Texts, names: Sequence[Sequence[str]]) -> bool:
    """Whether both write the same of every class: then nothing is to be learnt."""
    said = [f"a photo of a {first}" for first, *_ in names]
    ours, theirs = before(said), texts(said)
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=ATOL)


def _readers(unet: nn.Module) -> list[nn.Module]:
    """The layers that text goes into: keys and values of the cross-attention, and the pooled text's embedding."""
    cross = ("attn2.to_k", "attn2.to_v")
    return [layer for name, layer in unet.named_modules() if name == "add_embedding" or name.endswith(cross)]


def _any_caption(names: Sequence[Sequence[str]], chooser: random.Random) -> str:
    light, background = (chooser.choice((UNSAID, chooser.randrange(len(of)))) for of in (LIGHT, COLOURS))
    return caption(chooser.choice(chooser.choice(names)), light, background, chooser)
