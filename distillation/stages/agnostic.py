"""Stage ``agnostic``: phase 1 of the paper, on unlabelled natural photos that the stage ``embed`` has prepared."""

from __future__ import annotations

import torch

from distillation.corpus import Corpus
from distillation.distilling import distil_student, facts_of, load_recipe_teacher
from distillation.protocol import Reporter, Request, StageError
from distillation.recipe import NEED_CAPTIONS, Agnostic, Training
from distillation.stages.embed import photo_folders


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``student.safetensors``, ``student.json`` and ``curve.jsonl``."""
    agnostic = request.recipe.training.agnostic
    if agnostic is None:
        raise StageError("internal", "the recipe has no domain-agnostic phase")
    training = _phase(request.recipe.training, agnostic)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_recipe_teacher(request.recipe, device)
    facts = facts_of(teacher, [])
    del teacher
    corpus = Corpus.open(photo_folders(request.inputs["embed"][0]), device, mirror=training.flip)
    start = request.inputs.get("earlier")
    return distil_student(
        request,
        report,
        corpus=corpus,
        training=training,
        teacher=facts,
        earlier=start[0] if start else None,
        head=None,
    )


def _phase(training: Training, agnostic: Agnostic) -> Training:
    """The recipe's training with this phase's length; photos have no captions, so no loss that needs them."""
    losses = {name: weight for name, weight in training.losses.items() if name not in NEED_CAPTIONS}
    epochs = None if agnostic.steps else agnostic.epochs
    length = {"epochs": epochs, "steps": agnostic.steps, "minutes": None}
    return training.model_copy(update={"losses": losses or {"l2": 1.0}, **length})
