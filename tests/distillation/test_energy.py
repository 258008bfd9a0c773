"""The energy distance of images and photos: a plain reference, and where its gradient leads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from distillation.generator_training.energy import energy_distance


def test_it_is_what_the_formula_says() -> None:
    torch.manual_seed(0)
    made, photos = torch.randn(8, 5), torch.randn(8, 5)

    def apart(first: torch.Tensor, second: torch.Tensor) -> float:
        return float((first - second).square().sum().sqrt())

    of_classes = []
    for x, y in zip(made.split(4), photos.split(4), strict=True):
        across = np.mean([apart(a, b) for a, b in itertools.product(x, y)])
        within = [np.mean([apart(a, b) for a, b in itertools.combinations(rows, 2)]) for rows in (x, y)]
        of_classes.append(2 * across - sum(within))
    assert float(energy_distance(made, photos, 4)) == pytest.approx(np.mean(of_classes), rel=1e-5)


def test_images_spread_as_photos_do_though_few_are_compared_at_a_time() -> None:
    torch.manual_seed(0)
    images = (0.01 * torch.randn(256, 2)).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.02)
    for _ in range(600):
        order, photos = torch.randperm(256), torch.randn(256, 2) * torch.tensor([1.0, 3.0])
        optimizer.zero_grad()
        energy_distance(images[order], photos, 4).backward()
        optimizer.step()
    assert images.detach().std(0).tolist() == pytest.approx([1.0, 3.0], rel=0.3)
