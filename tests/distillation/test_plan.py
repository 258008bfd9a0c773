"""What two jobs share: the keys of their tasks."""

from __future__ import annotations

from typing import Any

from distillation.plan import plan
from distillation.recipe import Recipe


def keys(**changes: Any) -> dict[str, str]:
    """The key of each stage's task."""
    training = {"agnostic": {"source": "photos.tar", "steps": 5}, **changes.pop("training", {})}
    content = {"domain": {"name": "d", "classes": ["lemon", "pizza"]}, "training": training, **changes}
    return {task.stage: task.key for task in plan(Recipe.model_validate(content), str)}


def differing(**changes: Any) -> set[str]:
    first, second = keys(), keys(**changes)
    return {stage for stage in first if first[stage] != second[stage]}


def test_another_student_shares_images_and_embedded_photos() -> None:
    assert differing(student={"size": "xs"}) == {"agnostic", "distil", "evaluate", "export"}
    assert differing(training={"lr": 0.5}) == {"agnostic", "distil", "evaluate", "export"}


def test_more_views_are_embedded_anew() -> None:
    assert differing(training={"views": 2}) == {"generate", "embed", "agnostic", "distil", "evaluate", "export"}


def test_a_longer_first_phase_uses_the_same_photos() -> None:
    longer = {"agnostic": {"source": "photos.tar", "steps": 50}}
    assert differing(training=longer) == {"agnostic", "distil", "evaluate", "export"}
