"""A teacher of open_clip's plain ``CLIP`` class: its text tower has no module of its own."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch

from distillation.stages import evaluate, export
from models.clip_directory import save_clip_directory
from tests.distillation.stage_folders import recipe, run_stage, stage_inputs

CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("plain")
    preprocess = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    save_clip_directory(open_clip.CLIP(**CONFIG), folder, model_cfg=CONFIG, preprocess_cfg=preprocess)
    return folder


def test_its_text_tower_reaches_the_encoder(tmp_path: Path, plain_folder: Path) -> None:
    teacher = open_clip.create_model(f"local-dir:{plain_folder}").eval()
    assert type(teacher) is open_clip.CLIP
    wanted = recipe(str(plain_folder), exports={"int8": False})
    inputs = stage_inputs(tmp_path, wanted)
    run_stage(evaluate, "evaluate", wanted, inputs, tmp_path / "evaluate")
    run_stage(export, "export", wanted, {**inputs, "evaluate": [tmp_path / "evaluate"]}, tmp_path / "export")

    encoder = f"local-dir:{tmp_path / 'export' / 'encoder'}"
    model, _, transform = open_clip.create_model_and_transforms(encoder, require_pretrained=True)
    tokens = open_clip.get_tokenizer(encoder)(["a photo of a red thing", "blue"])
    with torch.inference_mode():
        difference = (model.eval().encode_text(tokens) - teacher.encode_text(tokens)).abs().max().item()
    assert type(model) is open_clip.CustomTextCLIP and difference < 1e-6
    assert transform.transforms[0].size == 48, "photos keep their shape, though the teacher squashes them"
    how = json.loads((tmp_path / "export" / "encoder" / "preprocess.json").read_text())
    assert how["resize_mode"] == "shortest"
