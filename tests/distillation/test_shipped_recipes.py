"""Every shipped recipe is pinned, estimated, and run whole with random-weight models of its kinds, made small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler

from benchmarks.full_size.pipelines import save_lcm_lora
from distillation import pipeline
from distillation.catalogue import resolve_student
from distillation.estimate import estimate
from distillation.plan import recipe_teacher_shape
from distillation.protocol import Reporter
from distillation.recipe import Recipe, load_recipe
from distillation.runner import run_stage
from models.generators import load_generator
from tests.distillation.photo_builders import photo, write_tar

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("**/*.yaml"))
CLASSES, IMAGES = 3, 8
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
    teacher = recipe_teacher_shape(recipe)
    student = resolve_student(recipe.student, teacher)
    assert student.params > 0 and student.macs > 0, "a student of the catalogue"
    told = estimate(recipe, student, teacher)
    assert told["images"] == recipe.data.images_per_class * len(recipe.domain.classes)
    assert told["minutes"] > 1 and (told["steps"] or 0) > 0


@pytest.mark.parametrize(
    ("name", "architecture"), [("popp2024", "tiny_vit_11m_224"), ("default", "hgnetv2_b0")]
)  # the demo is run as it stands, by `make demo`
def test_it_runs_with_small_models(
    name: str,
    architecture: str,
    vit_teacher_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # test_pipeline has the child processes; thirteen more would only import the same libraries again.
    monkeypatch.setattr(pipeline, "_run_in_child", lambda request, _task, _listen: run_stage(request, Reporter()))
    shipped = load_recipe(RECIPES[0].parent / f"{name}.yaml")
    generator: Path = request.getfixturevalue("sdxl_folder" if "xl" in shipped.data.generator.model else "sd_folder")
    recipe = _reduced(shipped, vit_teacher_folder, generator, tmp_path)
    assert recipe.student.architecture == architecture
    _check_generator(recipe.data.generator.model, recipe.data.generator.lora or "")

    encoder = pipeline.run_recipe(recipe, tmp_path / "out", lambda _task, _event: None)
    done = {path.parents[1].name.partition("-")[0] for path in tmp_path.glob("out/stages/*/out/manifest.json")}
    agnostic = {"embed", "agnostic"} if shipped.training.agnostic else set()
    assert done == {"prompts", "generate", "distil", "evaluate", "export"} | agnostic
    assert (encoder / "open_clip_config.json").is_file() and (encoder / "classifier.onnx").is_file()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["student"]["architecture"] == architecture
    assert report["student"]["init"] == ("agnostic" if agnostic else "scratch")
    assert report["generation"]["images"] == CLASSES * IMAGES and report["real"]["images"] == CLASSES


def _check_generator(model: str, lora: str) -> None:
    """The LoRA is fused into attention and convolutions, and has brought its scheduler."""
    loaded, plain = (load_generator(model, device=torch.device("cpu"), lora=item) for item in (lora, None))
    assert isinstance(loaded.scheduler, LCMScheduler) and not isinstance(plain.scheduler, LCMScheduler)
    before, after = plain.unet.state_dict(), loaded.unet.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("attn1.to_q" in key for key in changed) and any("resnets.0.conv1" in key for key in changed)


def _reduced(shipped: Recipe, teacher: Path, generator: Path, folder: Path) -> Recipe:
    """The recipe with small local models and little to do; everything else stays as it says."""
    content: dict[str, Any] = shipped.model_dump(mode="json", exclude_unset=True)
    content["domain"]["classes"] = content["domain"]["classes"][:CLASSES]
    content["teacher"] = {"model": f"local-dir:{teacher}"}
    student = resolve_student(shipped.student, recipe_teacher_shape(shipped))
    content["student"] = {"architecture": student.architecture, "image_size": 64, "init": shipped.student.init}
    given = content["data"]["generator"]
    # The LoRA under its own name, which is what chooses the scheduler.
    lora = save_lcm_lora(generator, folder / Path(given["lora"].partition("@")[0]).name, rank=4)
    given |= {"model": str(generator), "revision": None, "lora": str(lora), "size": 64}
    content["data"] |= {"images_per_class": IMAGES, "shard_size": 16}
    # A teacher with random weights agrees with nobody.
    content["data"]["filter"] = {**content["data"].get("filter", {}), "teacher_agrees": False}
    training = content["training"]
    training.pop("epochs")
    training |= {"steps": 2, "batch_size": 4, "views": 2}
    photos = {f"{name}/{index}.jpg": photo((16 * index, 30, 30)) for name in ("a", "b") for index in range(8)}
    if "agnostic" in training:
        (folder / "photos").mkdir()
        write_tar(folder / "photos" / "0000.tar", photos)
        training["agnostic"] |= {"source": str(folder / "photos"), "max_images": 16}
    for item in content["domain"]["classes"]:
        (folder / "real" / item["name"]).mkdir(parents=True)
        (folder / "real" / item["name"] / "0.jpg").write_bytes(photo((90, 30, 30)))
    content["evaluation"] = {"dataset": str(folder / "real")}
    return Recipe.model_validate(content)
