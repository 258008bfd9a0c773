"""A step of a generator's training: what is drawn for it, what it notes, and that the host waits for nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillation.generator_training.caption_bank import OF_PHOTO, CaptionBank
from distillation.generator_training.captions import COLOURS, LIGHT, UNSAID
from distillation.generator_training.critic import Critic, noisy
from distillation.generator_training.from_base import FromBase
from distillation.generator_training.from_nothing import FromNothing
from distillation.generator_training.networks import OneStep
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.photos import Photos
from distillation.generator_training.text_encoder import teacher_texts
from distillation.generator_training.trainer import RECOGNISED_SHARE, GeneratorTrainer, note_recognised
from distillation.recipe import ClassSpec, Domain
from models.teachers import load_teacher

NAMES = ["lemon", "school bus", "pizza"]


@pytest.fixture(scope="module")
def trainers(teacher_folder: Path) -> list[GeneratorTrainer]:
    """One of each kind, of the same photos."""
    teacher = load_teacher(str(teacher_folder))
    critic, texts = Critic(teacher, [[f"a photo of a {name}"] for name in NAMES], 32), teacher_texts(teacher)
    torch.manual_seed(0)
    bank = PhotoBank.fill(critic, Photos(torch.randint(0, 256, (60, 32, 32, 3)).byte(), torch.arange(60) % 3))
    domain = Domain(name="x", classes=tuple(ClassSpec(name=name) for name in NAMES))  # type: ignore[call-arg]
    learnt_from = (domain, critic, bank, texts, 0)
    return [FromNothing(*learnt_from), FromBase(*learnt_from, OneStep(32, texts.width))]


class Waits(TorchDispatchMode):
    """Notes operations that give the host a value, or take one from it: on a GPU it would wait for them."""

    KINDS = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "equal.default", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        indices = args[1] if "aten.index" in str(func) and isinstance(args[1], list) else []
        by_mask = any(rows is not None and rows.dtype == torch.bool for rows in indices)
        if by_mask or any(kind in str(func) for kind in self.KINDS):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [0, 1])
def test_the_host_waits_for_nothing_in_a_step(trainers: list[GeneratorTrainer], kind: int) -> None:
    trainers[kind].step(0, 16, 1.0, 1.0)  # the optimisers' first makes their state
    with Waits() as waits:
        trainers[kind].step(1, 16, 1.0, 1.0)
    assert waits.found == []
    with Waits() as waits:
        torch.arange(3)[torch.arange(3) > 1].tolist()
    assert waits.found, "what waits is noticed"


@pytest.mark.parametrize("batch_size", [8, 1024, 1032])
def test_photos_of_a_class_are_drawn_one_after_another(trainers: list[GeneratorTrainer], batch_size: int) -> None:
    assert {count: trainers[1].of_class(count) for count in (8, 512, 1024, 1032)} == {8: 8, 512: 8, 1024: 16, 1032: 8}
    torch.manual_seed(0)
    drawn, photos = trainers[1]._draw(batch_size), trainers[1]._bank.photos
    labels = drawn.said[:, 0].view(-1, trainers[1].of_class(batch_size))
    assert bool((labels == labels[:, :1]).all())
    known = {image.numpy().tobytes(): int(label) for image, label in zip(photos.images, photos.labels, strict=True)}
    images = (drawn.photos * 255).round().byte().permute(0, 2, 3, 1).contiguous()
    assert [known[image.numpy().tobytes()] for image in images] == drawn.said[:, 0].tolist()
    if batch_size > 1000:
        assert len({image.numpy().tobytes() for image in images}) == len(known), "each photo comes up"


def test_captions_are_drawn_as_photos_say(teacher_folder: Path) -> None:
    texts = teacher_texts(load_teacher(str(teacher_folder)))
    torch.manual_seed(0)
    counts = (3, len(LIGHT), len(COLOURS))
    photos = torch.stack([torch.randint(count, (300,)) for count in counts], 1)
    names = [["lemon", "citrus"], ["school bus"], ["pizza"]]
    bank = CaptionBank(names, photos, texts, 5)
    rows = torch.arange(300).repeat(20)
    said, text = bank.draw(rows)
    assert torch.equal(said[:, 0], photos[rows, 0])
    for column in (1, 2):
        unsaid = said[:, column] == UNSAID
        assert 0.4 < float(unsaid.float().mean()) < 0.6
        assert torch.equal(said[~unsaid, column], photos[rows[~unsaid], column])
    plain, other = texts(["a photo of a pizza", "a photo of a citrus"])
    of_pizza, is_plain = said[:, 0] == 2, (text - plain).abs().amax((1, 2)) < 0.05
    assert 0.3 < float(is_plain[of_pizza & (said[:, 1:] == UNSAID).all(1)].float().mean()) < 0.7
    assert not bool(is_plain[~of_pizza | (said[:, 2] != UNSAID)].any())
    assert bool(((text - other).abs().amax((1, 2)) < 0.05).any()), "synonyms too"
    of_each = {(row, tuple(hidden.flatten().tolist())) for row, hidden in zip(rows.tolist(), text, strict=True)}
    assert 300 < len(of_each) <= 300 * OF_PHOTO
    again, others = (CaptionBank(names, photos, texts, seed) for seed in (5, 6))
    assert torch.equal(again._said, bank._said) and torch.equal(again._texts, bank._texts)
    assert not torch.equal(others._said, bank._said)


def test_classes_are_noted_one_image_after_another() -> None:
    torch.manual_seed(0)
    shares, labels, right = torch.rand(7), torch.randint(6, (40,)), torch.rand(40) < 0.5
    expected = shares.clone()
    for label, value in zip(labels.tolist(), right.float(), strict=True):
        expected[label].lerp_(value, RECOGNISED_SHARE)
    note_recognised(shares, labels, right)
    assert torch.allclose(shares, expected, atol=1e-6)


def test_noise_is_drawn_where_it_is_used() -> None:
    with torch.device("meta"):
        model, pixels = OneStep(32, 32), torch.zeros(2, 3, 8, 8)
    assert model.draw_noise(2).is_meta and noisy(pixels).is_meta
