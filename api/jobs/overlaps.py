"""Data sets that are measured on though they were learnt from. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.orm import Session

from distillation.recipe import Recipe
from state.tables import Dataset, Generator, Job


def overlap_warnings(session: Session, recipe: Recipe) -> list[str]:
    """Who has learnt from the photos of ``evaluation.dataset``, the same photos under another id included."""
    measured_on = session.get(Dataset, recipe.evaluation.dataset or "")
    if measured_on is None:
        return []
    warnings = []
    for learner, name in _learnt_from(session, recipe):
        dataset = session.get(Dataset, name)
        if dataset is not None and dataset.bundle == measured_on.bundle:
            warnings.append(
                f"evaluation.dataset: {learner} learns from the photos of {measured_on.id} too, so their score is not "
                "one on new photos; give photos that were kept apart"
            )
    return warnings


def _learnt_from(session: Session, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Learners, and the data sets that they learn from."""
    if recipe.training.agnostic is not None:
        yield "the domain-agnostic phase", recipe.training.agnostic.source
    model = recipe.data.generator.model
    # A generator knows what its base knew.
    while (generator := session.get(Generator, model)) is not None:
        trained = session.get_one(Job, generator.job_id).recipe
        yield f"the generator {model}", trained["dataset"]
        model = trained.get("base") or ""
