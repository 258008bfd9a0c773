"""Every shipped recipe is pinned, estimated, and run whole with random-weight models of its kinds, made small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import LCMScheduler

from distillation import pipeline
from distillation.catalogue import resolve_student
from distillation.estimate import estimate
from distillation.plan import recipe_teacher_shape
from distillation.protocol import Reporter
from distillation.recipe import Recipe, load_recipe
from distillation.runner import run_stage
from models.generators import load_generator
from tests.distillation.photo_builders import photo, write_tar
from tests.models_fixtures import save_lora

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("**/*.yaml"))
CLASSES = 3
COMMIT = re.compile("[0-9a-f]{40}")

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@every_recipe
def test_it_is_pinned(path: Path) -> None:
    generator = load_recipe(path).data.generator
    if generator.model != "starter":
        assert COMMIT.fullmatch(generator.revision or "")
    if generator.lora is not None:
        assert COMMIT.fullmatch(generator.lora.partition("@")[2])


@every_recipe
def test_it_can_be_estimated(path: Path) -> None:
    recipe = load_recipe(path)
    student = resolve_student(recipe.student, recipe_teacher_shape(recipe))
    assert student.params > 0 and student.macs > 0, "a student of the catalogue"
    told = estimate(recipe, student)
    assert told["images"] == recipe.data.images_per_class * len(recipe.domain.classes)
    assert told["minutes"] > 1 and (told["steps"] or 0) > 0


@pytest.mark.parametrize("name", ["popp2024", "default"])  # the demo is run as it stands, by `make demo`
def test_it_runs_with_small_models(
    name: str, teacher_folder: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # test_pipeline has the child processes; thirteen more would only import the same libraries again.
    monkeypatch.setattr(pipeline, "_run_in_child", lambda request, _task, _listen: run_stage(request, Reporter()))
    content = yaml.safe_load((RECIPES[0].parent / f"{name}.yaml").read_text(encoding="utf-8"))
    family = "sdxl_folder" if "xl" in content.get("data", {}).get("generator", {}).get("model", "") else "sd_folder"
    reduced = _reduced(content, teacher_folder, request.getfixturevalue(family), tmp_path)
    recipe = Recipe.model_validate(reduced)
    if (lora := recipe.data.generator.lora) is not None:
        loaded = load_generator(recipe.data.generator.model, device=torch.device("cpu"), lora=lora)
        assert isinstance(loaded.scheduler, LCMScheduler)

    encoder = pipeline.run_recipe(recipe, tmp_path / "out", lambda _task, _event: None)
    done = {path.parents[1].name.partition("-")[0] for path in tmp_path.glob("out/stages/*/out/manifest.json")}
    agnostic = {"agnostic"} if recipe.training.agnostic else set()
    assert done == {"prompts", "generate", "distil", "evaluate", "export"} | agnostic
    assert (encoder / "open_clip_config.json").is_file() and (encoder / "classifier.onnx").is_file()


def _reduced(content: dict[str, Any], teacher: Path, generator: Path, folder: Path) -> dict[str, Any]:
    """The recipe with small local models and little to do; what it says of prompts, losses and optimiser stays."""
    content["domain"]["classes"] = content["domain"]["classes"][:CLASSES]
    content["teacher"] = {"model": f"local-dir:{teacher}"}
    content["student"] = {"architecture": "test_resnet", "image_size": 48}
    given = content["data"].get("generator", {})
    replaced = {"model": str(generator), "steps": 2, "guidance": given.get("guidance", 3.0)}
    if lora := given.get("lora"):
        # Under its own name, which is what chooses the scheduler.
        replaced["lora"] = str(save_lora(generator, folder / Path(lora.partition("@")[0]).name))
    off = {"teacher_agrees": False, "near_constant": False}
    content["data"] |= {"generator": replaced, "images_per_class": 8, "shard_size": 16, "filter": off}
    training = content["training"]
    for length in ("epochs", "minutes"):
        training.pop(length, None)
    training |= {"steps": 2, "batch_size": 4, "views": 2}
    if "agnostic" in training:
        photos = {f"{index}.jpg": photo((16 * index, 30, 30)) for index in range(16)}
        (folder / "photos").mkdir()
        write_tar(folder / "photos" / "0000.tar", photos)
        training["agnostic"] |= {"source": str(folder / "photos"), "max_images": 16, "epochs": 0.5}
    content["exports"], content["evaluation"] = {"int8": False}, {"latency": False}
    return content
