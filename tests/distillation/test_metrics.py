"""Metrics against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from distillation.metrics import (
    agreement,
    class_recalls,
    classification_metrics,
    confusions,
    feature_cosine,
    per_class_table,
    topk_accuracy,
)

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((200, 7))
LABELS = RNG.integers(0, 6, 200)  # class 6 has no image


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_topk_counts_labels_among_the_highest(k: int) -> None:
    hits = [label in np.argsort(-row)[:k] for row, label in zip(SCORES, LABELS, strict=True)]
    assert topk_accuracy(SCORES, LABELS, k) == pytest.approx(np.mean(hits))


def test_ties_do_not_count_as_hits() -> None:
    scores = np.zeros((4, 4))
    assert topk_accuracy(scores, np.arange(4), 1) == 0.25


def test_classification_metrics_are_clip_benchmarks() -> None:
    predicted = SCORES.argmax(1)
    recalls = [(predicted[np.flatnonzero(c == LABELS)] == c).mean() for c in range(6)]
    found = classification_metrics(SCORES, LABELS)
    assert list(found) == ["acc1", "acc5", "mean_per_class_recall"]
    assert found["acc1"] == pytest.approx(np.mean(predicted == LABELS))
    assert found["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
    assert np.isnan(class_recalls(predicted, LABELS, 7)[6])


def test_top5_of_fewer_classes_is_one() -> None:
    assert classification_metrics(SCORES[:, :3], LABELS % 3)["acc5"] == 1.0


def test_per_class_table_has_a_row_for_a_class_without_images() -> None:
    table = per_class_table(["a", "b"], np.array([0, 0]), np.array([0, 0]), np.array([0, 1]), "real")
    assert table[0] == {"class": "a", "images": 2, "teacher_recall": 1.0, "student_recall": 0.5, "on": "real"}
    assert table[1] == {"class": "b", "images": 0, "teacher_recall": None, "student_recall": None, "on": "real"}


def test_confusions_are_sorted_by_count() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 2, 1, 0, 2])
    assert confusions(["a", "b", "c"], labels, predicted, most=2) == [
        {"class": "a", "taken_for": "b", "count": 2},
        {"class": "a", "taken_for": "c", "count": 1},
    ]
    assert confusions(["a", "b"], np.array([0, 1]), np.array([0, 1])) == []


def test_agreement_and_cosine() -> None:
    assert agreement(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75
    first, second = RNG.standard_normal((5, 8)), RNG.standard_normal((5, 8))
    plain = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(first, second, strict=True)]
    assert feature_cosine(first, second) == pytest.approx(np.mean(plain))
    assert feature_cosine(first.astype(np.float16), 3 * first.astype(np.float16)) == pytest.approx(1.0)
