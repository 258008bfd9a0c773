"""How different the images of one class are, against a plain reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distillation.generator_training.variety import variety


def test_it_is_the_mean_distance_of_pairs_within_a_class() -> None:
    features = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.array([0, 1, 0, 2, 1, 1, 0, 0, 1])
    means = []
    for label in (0, 1):
        pairs = itertools.combinations(np.flatnonzero(labels == label), 2)
        means.append(np.mean([1 - features[a] @ features[b] for a, b in pairs]))
    assert variety(features, labels) == pytest.approx(np.mean(means), rel=1e-5)


def test_one_image_drawn_again_and_again_has_none() -> None:
    features, labels = np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    assert variety(features, labels) == 0
    assert variety(features[[0, 2]], labels[[0, 2]]) is None, "no pair"
