"""Views: that a crop shows the pixels it names, flipped where it says so, and that boxes stay in the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distillation.views import apply_views, crop_boxes, sample_views, whole_views

SIDE = 32
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(pixels: Tensor) -> Tensor:
    """uint8 ``(n, height, width, 3)`` as a network takes it."""
    return ((pixels / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def test_whole_views_are_the_images() -> None:
    seen = apply_views(images(3), whole_views(3), SIDE, MEAN, STD)
    torch.testing.assert_close(seen, normalised(images(3)), atol=1e-4, rtol=0)
    assert seen.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_crop_of_the_output_size_is_cut_out(flip: float) -> None:
    top, left, size = 5, 11, 16
    view = torch.tensor([[top / SIDE, left / SIDE, size / SIDE, size / SIDE, flip]])
    cut = images(1)[:, top : top + size, left : left + size]
    seen = apply_views(images(1), view, size, MEAN, STD)
    torch.testing.assert_close(seen, normalised(cut.flip(2) if flip else cut), atol=1e-4, rtol=0)


def test_crops_are_resized_as_by_an_affine_transform() -> None:
    views = sample_views(6, scale=(0.3, 1.0), generator=torch.Generator().manual_seed(1))
    assert set(views[:, 4].tolist()) == {0.0, 1.0}
    top, left, height, width, flip = views.unbind(1)
    theta = torch.zeros(6, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * (1 - 2 * flip), height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * left + width - 1, 2 * top + height - 1
    grid = F.affine_grid(theta, [6, 3, 20, 20], align_corners=False)
    plain = images(6).permute(0, 3, 1, 2).float()
    cropped = F.grid_sample(plain, grid, mode="bilinear", padding_mode="border", align_corners=False)
    expected = normalised(cropped.permute(0, 2, 3, 1))
    torch.testing.assert_close(apply_views(images(6), views, 20, MEAN, STD), expected, atol=1e-3, rtol=0)


def test_boxes_lie_in_the_image_and_have_the_areas_asked_for() -> None:
    top, left, height, width, _ = sample_views(500, scale=(0.4, 0.8), generator=torch.Generator().manual_seed(2)).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    area = height * width
    assert area.max() <= 0.8 + 1e-5 and area.median() == pytest.approx(0.6, abs=0.05)


def test_boxes_of_many_images_are_those_of_each() -> None:
    seeds = range(20)
    uniform = torch.stack([torch.rand(3, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    each = [sample_views(3, scale=(0.5, 1.0), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    assert torch.equal(crop_boxes(uniform, scale=(0.5, 1.0)), torch.stack(each))
