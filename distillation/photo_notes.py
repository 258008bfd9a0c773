"""What must be said beside a score on real photos: that they were learnt from, or enlarged. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from distillation.datasets import read_info
from distillation.recipe import Recipe
from distillation.recipe_fields import is_local


def learnt_from(generator: str) -> list[str]:
    """Fingerprints of the data sets that a generator in a directory, and its bases, learnt from, as its report says."""
    report = Path(generator) / "report.json"
    if not is_local(generator) or not report.is_file():
        return []
    fingerprints: list[str] = json.loads(report.read_text(encoding="utf-8")).get("learnt_from", [])
    return fingerprints


def photo_notes(recipe: Recipe, dataset: Path, seen_by_generator: Collection[str], teacher_size: int) -> list[str]:
    """Sentences for the report and the card.

    Args:
        dataset: the dataset directory that is measured on.
        seen_by_generator: fingerprints of the data sets that the generator learnt from.
        teacher_size: side of the teacher's input.
    """
    info, phase = read_info(dataset), recipe.training.agnostic
    notes = []
    if info.fingerprint in seen_by_generator:
        notes.append("The generator learnt from these photos, so their score is not one on new photos.")
    if phase is not None and Path(phase.source) == Path(recipe.evaluation.dataset or ""):
        notes.append("The student learnt from these photos, without their labels, in its domain-agnostic phase.")
    if info.side < teacher_size:
        notes.append(
            f"These photos are stored at {info.side} pixels and were enlarged for the teacher, which takes "
            f"{teacher_size}; it may do better on larger ones."
        )
    return notes
