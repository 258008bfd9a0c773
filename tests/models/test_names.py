"""The names that the API knows are those of the installed libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import distillation.names
from distillation.names import check_architecture, teacher_problem
from distillation.recipe import Teacher
from models.names import known_names


def test_the_file_is_what_the_libraries_know() -> None:
    written = json.loads(Path(distillation.names.__file__).with_name("names.json").read_text(encoding="utf-8"))
    assert written == known_names(), "run: python -m models.names > distillation/names.json"


def test_architectures() -> None:
    check_architecture("resnet18")
    check_architecture("resnet18.a1_in1k")
    with pytest.raises(ValueError, match=r"did you mean .*resnet18"):
        check_architecture("resnet81")


def test_teachers() -> None:
    for model, pretrained in (
        ("starter", None),
        ("hf-hub:a/b", None),
        ("/models/mine", None),
        ("ViT-B-32", "datacomp_xl_s13b_b90k"),
        ("ViT-B/32", "openai"),
        ("ViT-B-32", "/weights.safetensors"),
    ):
        revision = "0" * 40 if ":" in model else None
        assert teacher_problem(Teacher(model=model, pretrained=pretrained, revision=revision)) is None
    assert Teacher(model="ViT-B/32", pretrained="openai").model == "ViT-B-32", "as open_clip lists it"
    assert (teacher_problem(Teacher(model="ViT-B-23", pretrained="openai")) or "")[0] == "model"
    assert (teacher_problem(Teacher(model="ViT-B-32", pretrained="nope")) or "")[0] == "pretrained"
