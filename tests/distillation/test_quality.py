"""The filters that decide which images are kept."""

from __future__ import annotations

import torch

from distillation.quality import judge, near_constant


def noise(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_black_blank_and_faint_images_are_near_constant() -> None:
    images = noise(6)
    images[0] = 0
    images[1] = 255
    images[2] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    images[3] = 100 + images[3] // 64
    images[4, :, :4] = 0
    assert near_constant(images).tolist() == [True, True, True, True, False, False]
    many = noise(200)
    many[150] = 7
    assert near_constant(many).nonzero().flatten().tolist() == [150]


def test_each_image_is_dropped_for_one_reason() -> None:
    images = noise(4)
    images[:2] = 0
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    labels = torch.tensor([0, 0, 0, 0])
    verdict = judge(images, logits, labels, drop_near_constant=True, drop_disagreeing=True)
    assert verdict.near_constant.tolist() == [True, True, False, False]
    assert verdict.disagrees.tolist() == [False, False, True, False]
    assert verdict.keep.tolist() == [False, False, False, True]
    assert verdict.right.tolist() == [True, False, False, True]


def test_filters_can_be_off() -> None:
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    verdict = judge(
        images, torch.tensor([[0.0, 1.0]] * 2), torch.tensor([0, 1]), drop_near_constant=False, drop_disagreeing=False
    )
    assert verdict.keep.tolist() == [True, True]
    assert verdict.right.tolist() == [False, True]
