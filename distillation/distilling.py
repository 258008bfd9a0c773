"""What both training stages share: the student's start, its training on a corpus, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillation.catalogue import Resolved, resolve_student
from distillation.corpus import Corpus
from distillation.mixed_corpus import MixedCorpus
from distillation.plan import DEFAULT_EPOCHS, base_student, batch_of, resolve_model
from distillation.protocol import Reporter, Request, StageError, write_atomically
from distillation.recipe import Recipe, Training
from distillation.teachers import TeacherShape
from distillation.trainer import TeacherFacts, Trainer
from distillation.training import Length, train
from distillation.views import whole_views
from models.errors import ModelError
from models.students import build_student, count_macs, count_params, student_config
from models.teachers import TeacherModel, load_teacher

HOLDOUT_IMAGES = 512
WEIGHTS, DESCRIPTION = "student.safetensors", "student.json"


def load_recipe_teacher(recipe: Recipe, device: torch.device) -> TeacherModel:
    """The recipe's teacher, the starter's included."""
    teacher = recipe.teacher
    try:
        return load_teacher(resolve_model(teacher.model, "teacher"), teacher.pretrained, teacher.revision, device)
    except ModelError as error:
        error.field = error.field or "teacher.model"
        raise


def resolve(recipe: Recipe, teacher: TeacherFacts) -> Resolved:
    """The recipe's student for this teacher.

    Raises:
        StageError: impossible_budget or bad_architecture.
    """
    try:
        shape = TeacherShape(teacher.image_size, teacher.embed_dim, teacher.params_image_tower)
        return resolve_student(recipe.student, shape)
    except ValueError as error:
        field = next(iter(recipe.student.budget), None)
        code = "impossible_budget" if field else "bad_architecture"
        raise StageError(code, str(error), "see the student catalogue", f"student.{field or 'architecture'}") from error


def training_length(training: Training, images: int) -> Length:
    """How long to train on ``images`` images: whole steps, or the recipe's time budget."""
    if training.minutes is not None:
        return Length(None, training.minutes * 60)
    epochs = training.epochs or DEFAULT_EPOCHS
    batch_size = batch_of(training, images)
    steps = training.steps or max(1, round(images * epochs / batch_size))
    return Length(steps * batch_size)


def distil_student(
    request: Request,
    report: Reporter,
    *,
    corpus: Corpus | MixedCorpus,
    training: Training,
    teacher: TeacherFacts,
    earlier: Path | None,
    head: Tensor | None,
) -> dict[str, Any]:
    """Train the recipe's student on ``corpus`` and write it to ``request.out``.

    Args:
        earlier: folder of a student of an earlier phase to start from.
        head: zero-shot head ``(embed_dim, classes)`` for the agreement on held-out images, or None.

    Returns:
        The stage's summary.
    """
    chosen = resolve(request.recipe, teacher)
    config = student_config(chosen.architecture, chosen.image_size, teacher.model_cfg)
    torch.manual_seed(training.seed)
    student = build_student(config)
    start, init = (earlier, "agnostic") if earlier else (base_student(request.recipe), "base")
    if start is None:
        init = "scratch"
    else:
        student.load_state_dict(load_file(start / WEIGHTS))
    # Counted before the step's first run, on the CPU.
    params, macs = count_params(student), count_macs(student, chosen.image_size)
    trainer = Trainer(student, chosen.image_size, training, teacher, corpus.device)
    length = training_length(training, corpus.count)
    summary = train(trainer, corpus, training, length, request.out, report, holdout_measurement(trainer, corpus, head))
    if not report.leads:
        return summary
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trainer.result.state_dict().items()}
    save_file(weights, request.out / WEIGHTS, metadata={"format": "pt"})
    described = {
        "architecture": chosen.architecture,
        "image_size": chosen.image_size,
        "embed_dim": teacher.embed_dim,
        "params": params,
        "macs": macs,
        "init": init,
        "model_cfg": config,
    }
    write_atomically(request.out / DESCRIPTION, json.dumps(described, indent=1) + "\n")
    return {**summary, "init": init}


def holdout_measurement(
    trainer: Trainer, corpus: Corpus | MixedCorpus, head: Tensor | None
) -> Callable[[], dict[str, float]]:
    """The scores of the trainer's student for the curve; ``head`` as in :func:`distil_student`."""

    def measure() -> dict[str, float]:
        """Cosine with the teacher, and agreement on the class, over held-out images seen whole."""
        cosines, agreements = [], []
        for images, features, _ in corpus.holdout(HOLDOUT_IMAGES):
            student = trainer.encode(images, whole_views(len(images)))
            cosines.append((student * features).sum(-1))
            if head is not None:
                agreements.append(((student @ head).argmax(1) == (features @ head).argmax(1)).float())
        scores = {"holdout_cosine": cosines, "agreement": agreements}
        return {name: round(float(torch.cat(parts).mean()), 4) for name, parts in scores.items() if parts}

    return measure


def facts_of(teacher: TeacherModel, captions: list[str]) -> TeacherFacts:
    """What training needs of the teacher, so that the teacher itself can go; ``captions`` are embedded here, once."""
    return TeacherFacts(
        model_cfg=teacher.model_cfg,
        image_size=teacher.image_size,
        embed_dim=teacher.embed_dim,
        params_image_tower=teacher.params_image_tower,
        mean=teacher.mean,
        std=teacher.std,
        scale=teacher.logit_scale,
        captions=teacher.encode_text(captions) if captions else None,
    )
