"""Both recipes through every stage, with pipelines of the same classes made small; and the rate of a second half."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import typer

from benchmarks import harness
from benchmarks.full_size import __main__ as full_size
from benchmarks.full_size import pipelines
from benchmarks.full_size.measured import Mark, late_rate
from distillation.catalogue import resolve_student
from distillation.export import latency
from distillation.plan import recipe_teacher_shape
from distillation.recipe import load_recipe
from distillation.stages import embed

SHIPPED = Path(__file__).resolve().parents[2] / "recipes"
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 32}
TEACHER = "ViT-B-32-tiny"


@pytest.mark.usefixtures("own_open_clip_models")
def test_both_recipes_run_through_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OUT", tmp_path / "bench")
    monkeypatch.setattr(full_size, "RECIPES", tmp_path)
    monkeypatch.setattr(embed, "SHARD", 16)
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    _make_small(monkeypatch)
    config = open_clip.get_model_config("ViT-B-32") | {"embed_dim": 48}
    config["vision_cfg"] |= {"image_size": 64, "layers": 1, "width": 64}
    config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
    (tmp_path / f"{TEACHER}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(tmp_path / f"{TEACHER}.json")
    for name in full_size.NAMES:
        (tmp_path / f"{name}.yaml").write_text(json.dumps(_small(name)), encoding="utf-8")

    full_size.main(images=24, steps=4, photos=48)
    content = json.loads((tmp_path / "bench" / "full_size.json").read_text(encoding="utf-8"))
    assert list(content["recipes"]) == ["default", "popp2024"] and len(content["differences"]) == 4
    for name, rows in content["recipes"].items():
        phase1 = ["embed", "agnostic"] if name == "popp2024" else []
        assert [row["stage"] for row in rows] == ["prompts", "generate", *phase1, "distil", "evaluate", "export"]
        for row in rows:
            trains = row["stage"] in ("agnostic", "distil")
            assert row["seconds"] > 0 and row["peak_allocated"] is None, "memory is not measured on a CPU"
            assert (row["batch"] is not None) == trains
            if trains or row["stage"] in ("generate", "embed"):
                assert row["images_per_s"] > 0, row["stage"]
            if trains:
                assert row["summary"]["steps"] == 4
    generated = {name: rows[1]["summary"]["images"] for name, rows in content["recipes"].items()}
    assert generated == {"default": 2 * 12, "popp2024": 2 * 37}, "none is dropped"


@pytest.mark.parametrize("name", full_size.NAMES)
def test_the_student_is_the_recipes(name: str) -> None:
    """A preset is chosen by the teacher's shape, and that of one with random weights is read from its configuration."""
    shipped = load_recipe(SHIPPED / f"{name}.yaml")
    config = open_clip.get_model_config(shipped.teacher.model)
    shape = recipe_teacher_shape(shipped)
    assert (shape.image_size, shape.embed_dim) == (config["vision_cfg"]["image_size"], config["embed_dim"])
    assert resolve_student(shipped.student, shape).image_size == 224


@pytest.mark.parametrize(("name", "reason"), [("nosuch", "there is no"), ("demo", "size of starter")])
def test_other_recipes_are_refused(name: str, reason: str) -> None:
    with pytest.raises(typer.BadParameter, match=reason):
        full_size.main([name])


def test_the_rate_is_of_the_second_half_without_a_smaller_last_batch() -> None:
    slow_start = [Mark(0, 4), Mark(90, 8), Mark(92, 12), Mark(94, 16)]
    assert late_rate(slow_start) == 2
    assert late_rate([*slow_start, Mark(200, 17)]) == 2
    assert late_rate(slow_start[:1]) is None and late_rate([]) is None


def _make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines' shapes with few and narrow layers, for 64 pixels; blocks of the same kinds in the same order."""
    vae = {"block_out_channels": (32,) * 4, "layers_per_block": 1, "sample_size": 64}
    unet = {"sample_size": 8, "layers_per_block": 1, "attention_head_dim": 2}
    sd = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32}
    sdxl = {
        "block_out_channels": (32, 32, 64),
        "transformer_layers_per_block": [1, 1, 2],
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }
    for name, own in (("SD", sd), ("SDXL", sdxl)):
        shape: pipelines.Shape = getattr(pipelines, name)
        texts = tuple({**text, **TEXT} for text in shape.texts)
        small = replace(shape, texts=texts, vae={**shape.vae, **vae}, unet={**shape.unet, **unet, **own})
        monkeypatch.setattr(pipelines, name, small)


def _small(name: str) -> dict[str, Any]:
    """A shipped recipe for small images and few views."""
    shipped = load_recipe(SHIPPED / f"{name}.yaml")
    content = shipped.model_dump(mode="json", exclude_unset=True)
    student = resolve_student(shipped.student, recipe_teacher_shape(shipped))
    content["student"] = {"architecture": student.architecture, "image_size": 64}
    content["teacher"]["model"] = TEACHER
    content["data"]["generator"] |= {"size": 64, "batch_size": 8}
    content["training"] |= {"views": 2, "batch_size": 8}
    content["exports"] = {"int8": False}  # by far the longest part; test_shipped_recipes has it
    return content
