"""Fixtures of the procedure's tests: tiny models in the hubs' own formats, and a corpus to train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillation.corpus import Corpus
from distillation.distilling import facts_of
from distillation.trainer import TeacherFacts
from models.teachers import load_teacher
from tests.distillation.training_folders import CPU, write_training_shards
from tests.models_fixtures import sd_folder, sdxl_folder, teacher_folder, tokenizer_folder, vit_teacher_folder

__all__ = ["sd_folder", "sdxl_folder", "teacher_folder", "tokenizer_folder", "vit_teacher_folder"]


@pytest.fixture(scope="module")
def shards(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_training_shards(tmp_path_factory.mktemp("shards"), teacher_folder)


@pytest.fixture(scope="module")
def corpus(shards: list[Path]) -> Corpus:
    return Corpus.open(shards, CPU, with_captions=True)


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path, corpus: Corpus) -> TeacherFacts:
    return facts_of(load_teacher(str(teacher_folder)), corpus.captions)
