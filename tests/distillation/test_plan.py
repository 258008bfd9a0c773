"""What two jobs share: the keys of their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillation.plan import WHOLE_FILE_BYTES, fingerprint, plan, step_count
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


def mixed(share: float) -> Recipe:
    agnostic = {"source": "photos.tar", "steps": 5, "mix": share}
    return Recipe.model_validate(
        {"domain": {"name": "d", "classes": ["lemon", "pizza"]}, "training": {"agnostic": agnostic}}
    )


def test_photos_in_the_second_phase_change_the_student_alone() -> None:
    assert differing(training={"agnostic": {"source": "photos.tar", "steps": 5, "mix": 0.5}}) == {
        "distil",
        "evaluate",
        "export",
    }


@pytest.mark.parametrize(("share", "needs"), [(0, {"generate", "agnostic"}), (0.5, {"generate", "agnostic", "embed"})])
def test_embedded_photos_are_an_input_where_they_are_mixed_in(share: float, needs: set[str]) -> None:
    [distil] = [task for task in plan(mixed(share), str) if task.stage == "distil"]
    assert set(distil.needs) == needs


def test_an_epoch_shows_every_synthetic_image_however_many_photos_there_are() -> None:
    alone, half = step_count(mixed(0)), step_count(mixed(0.5))
    assert alone and half == 2 * alone


def test_few_images_are_passed_over_as_often_as_many() -> None:
    few = {"domain": {"name": "d", "classes": ["lemon", "pizza"]}, "data": {"images_per_class": 20}}
    assert step_count(Recipe.model_validate({**few, "training": {"epochs": 20, "batch_size": 128}})) == 20
    assert step_count(Recipe.model_validate({**few, "training": {"epochs": 20, "batch_size": 18}})) == 40


@pytest.mark.parametrize("part", ["lora", "decoder", "pretrained"])
def test_weights_at_a_path_are_known_by_their_content(part: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    changes: dict[str, Any] = {
        "data": {"generator": {"model": str(tmp_path / "pipeline"), "steps": 1, part: str(weights)}}
    }
    if part == "pretrained":
        changes = {"teacher": {"model": "ViT-B-32", "pretrained": str(weights)}}
    found = []
    for content in (b"one", b"another"):
        weights.write_bytes(content)
        found.append(keys(**changes))
    assert found[0]["prompts"] == found[1]["prompts"] and found[0]["generate"] != found[1]["generate"]


def test_a_layer_trained_on_in_large_weights_is_seen(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    with weights.open("wb") as file:
        file.truncate(WHOLE_FILE_BYTES + 12_345)
    before = fingerprint(str(tmp_path), "teacher")
    with weights.open("r+b") as file:
        file.seek(WHOLE_FILE_BYTES // 3)
        file.write(b"\1" * (1 << 20))
    assert fingerprint(str(tmp_path), "teacher") != before
