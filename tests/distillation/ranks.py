"""Training in every process that torchrun started: ``-m tests.distillation.ranks FOLDER``; the test compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillation import distributed
from distillation.corpus import Corpus
from distillation.distilling import facts_of
from distillation.trainer import Trainer
from models.students import build_student, student_config
from models.teachers import load_teacher
from tests.distillation.training_folders import CPU, STUDENT_SIZE, training

STEPS = 6
CASES: dict[str, dict[str, Any]] = {
    "features": {"losses": {"l2": 1.0, "mse": 10.0, "cosine": 1.0}, "optimizer": "adamw"},
    "pairs": {
        "losses": {"i2i": 1.0, "contrastive": 1.0, "crd": 1.0, "icl": 1.0, "gd": 6100.0},
        "optimizer": "sgd",
        "lr": 0.01,
    },
    "masked and augmented, unequal parts": {"losses": {"mfd": 10.0, "afd": 1.0}, "optimizer": "adamw", "batch_size": 7},
}


def trained(case: str, shards: list[Path], teacher_folder: Path) -> dict[str, Tensor]:
    """State of a student without batch normalisation after a few steps in fp32, and the last loss."""
    wanted = training(**CASES[case])
    corpus = Corpus.open(shards, CPU, with_captions=True)
    teacher = facts_of(load_teacher(str(teacher_folder)), corpus.captions)
    torch.manual_seed(wanted.seed)
    student = build_student(student_config("test_convnext", STUDENT_SIZE, teacher.model_cfg))
    trainer = Trainer(student, STUDENT_SIZE, wanted, teacher, corpus.device)
    trainer._autocast = False  # what is compared is the arithmetic of the batch, not of bf16
    for number in range(STEPS):
        batch = corpus.batch(number * wanted.batch_size, wanted.batch_size, wanted.seed)
        loss = trainer.step(batch, number, wanted.lr)
    return {"loss": loss, **trainer.state()}


def main(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    distributed.join()
    for case in CASES:
        state = trained(case, [Path(shard) for shard in asked["shards"]], Path(asked["teacher"]))
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / f"{case}-{distributed.rank()}.safetensors")
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
