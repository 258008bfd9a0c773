"""The parts that train the starter generator, and the pipeline that they leave."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import CLIPTokenizer

from distillation.plan import STARTER
from distillation.recipe import Generator
from models.generators import load_generator
from models.sampling import Sampler
from starter.captions import COLOURS, UNSAID, background, caption, light
from starter.discriminators import Discriminators, discriminator_loss
from starter.drifting import drifting_loss
from starter.one_step import LATENT_CHANNELS, OneStep, Texts, save_pipeline


def test_drifting_leads_to_the_photos_and_not_to_one_of_them() -> None:
    torch.manual_seed(0)
    photos = torch.cat([torch.randn(1, 64, 2) * 0.1 + 0.5, torch.randn(1, 64, 2) * 0.1 - 0.5], 1)
    made = torch.nn.Parameter(torch.randn(1, 64, 2) * 0.01)
    optimiser = torch.optim.SGD([made], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        drifting_loss(made, photos).backward()
        optimiser.step()
    ends = made.detach()[0]
    upper = ends.mean(1) > 0
    assert 16 <= int(upper.sum()) <= 48  # both groups of photos are met
    assert torch.allclose(ends[upper].mean(0), torch.full((2,), 0.5), atol=0.1)
    assert float(ends[upper].std(0).min()) > 0.03  # and each with its spread


def test_drifting_leads_towards_far_photos() -> None:
    photos = torch.randn(2, 8, 4)
    far = (photos + 3).requires_grad_()
    drifting_loss(far, photos).backward()
    assert far.grad is not None
    assert (far.grad.mean((0, 1)) > 0).all()  # the way down is the way back


def test_captions_say_what_is_measured() -> None:
    dark_green = np.full((64, 64, 3), (10, 40, 10), np.uint8)
    assert light(dark_green) == 0
    white = np.full((64, 64, 3), 240, np.uint8)
    assert (light(white), list(COLOURS)[background(white)]) == (1, "white")
    said = [caption("lemon", 0, background(white), random.Random(seed)).split(", ") for seed in range(50)]
    assert all(parts[0] == "a photo of a lemon" and "white background" in parts for parts in said)
    assert all({"at night", "in the dark"} & set(parts) for parts in said)
    assert {len(parts) for parts in said} == {3, 4, 5}  # none, one or two of the words that no photo tells
    unsaid = [caption("lemon", UNSAID, UNSAID, random.Random(seed)) for seed in range(50)]
    assert "a photo of a lemon" in unsaid and not any("background" in text for text in unsaid)


def test_discriminators_learn_to_tell_what_is_told() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(8, channels, side, side) for channels, side in ((64, 16), (128, 8), (256, 4))]
    pixels, said = torch.randn(8, 3, 64, 64), torch.tensor([[0, 0, UNSAID]] * 4 + [[1, UNSAID, 3]] * 4)
    judges = Discriminators(classes=2)
    optimiser = torch.optim.Adam(judges.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        scores = judges(pixels, maps, said)
        loss = discriminator_loss([score[:4] for score in scores], [score[4:] for score in scores])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_the_saved_pipeline_draws_what_was_trained(tmp_path: Path) -> None:
    """Through the production loader and sampler, in the one step that the scheduler is saved for."""
    torch.manual_seed(0)
    model, texts = OneStep().eval(), Texts(STARTER / "teacher")
    save_pipeline(model, texts, tmp_path)
    assert isinstance(CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"), CLIPTokenizer)
    pipeline = load_generator(str(tmp_path), device=torch.device("cpu"))
    images = Sampler(pipeline, steps=1, guidance=0.0, batch_size=2).sample(["a lemon", "a tractor"], [3, 4])
    noise = torch.cat(
        [torch.randn(1, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)]
    )
    with torch.inference_mode():
        expected = model(noise, texts(["a lemon", "a tractor"])).mul(0.5).add(0.5).clamp(0, 1).mul(255)
    assert images.shape == (2, 64, 64, 3)
    assert float((images.float() - expected.permute(0, 2, 3, 1)).abs().mean()) < 2  # grey levels: fp16 and bf16


def test_recipes_ask_the_starter_for_one_step() -> None:
    assert (Generator().steps, Generator().guidance) == (1, 0.0)
    assert Generator(model="./other").steps == 8
    with pytest.raises(ValidationError, match="one step without guidance"):
        Generator(steps=4)
