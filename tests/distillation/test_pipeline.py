"""The library alone: a whole job in real child processes, from photos in files to an encoder's folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distillation.__main__ import app
from distillation.datasets import read_info
from distillation.pipeline import _photos, run_recipe
from distillation.protocol import Reporter, Request, is_whole
from distillation.recipe import Recipe
from distillation.runner import run_stage
from tests.distillation.photo_builders import photo, write_tar, write_zip
from tests.distillation.stage_folders import NAMES

pytestmark = pytest.mark.usefixtures("preloaded_stages")


def test_photos_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Two data sets called alike, and one that has changed since it was converted."""
    out = tmp_path / "out"
    found = []
    for folder, count in (("cats", 3), ("dogs", 4), ("dogs", 5)):
        (tmp_path / folder).mkdir(exist_ok=True)
        members = {f"{name}/{i}.jpg": photo((40 * i, 20, 60)) for name in NAMES for i in range(count)}
        source = write_zip(tmp_path / folder / "val.zip", members)
        found.append(_photos(str(source), out))
        assert read_info(found[-1]).images == count * len(NAMES)
        assert _photos(str(source), out) == found[-1]
    assert len(set(found)) == 3


def test_a_folder_of_any_name_has_a_whole_manifest(tmp_path: Path) -> None:
    out = tmp_path / "checkpoints" / "out"
    out.mkdir(parents=True)
    recipe = Recipe.model_validate({"domain": {"name": "d", "classes": ["goldfish", "lion"]}})
    run_stage(Request("prompts", 0, "0" * 64, recipe, {}, out), Reporter(io.StringIO()))
    assert is_whole(out)
    (out / "prompts.json").unlink()
    assert not is_whole(out)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """Labelled photos in folders, and unlabelled ones in a tar file."""
    shades = {f"{name}-{i}.jpg": photo((80 * (i % 3), 20 * i, 60)) for name in NAMES for i in range(12)}
    for name, content in shades.items():
        folder = tmp_path / "photos" / name.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return tmp_path / "photos", write_tar(tmp_path / "unlabelled.tar", shades)


def test_a_job_without_the_service(
    photos: tuple[Path, Path], teacher_folder: Path, sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled, unlabelled = photos
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_of(teacher_folder, sd_folder, unlabelled.name)))
    monkeypatch.chdir(tmp_path)
    command = ["run", "recipe.json", "--out", "out", "--dataset", str(labelled)]

    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    report = json.loads(Path("out/report.json").read_text())
    assert report["real"]["images"] == 36
    assert Path("out/encoder/open_clip_config.json").is_file() and Path("out/encoder/classifier.onnx").is_file()

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and again.output.count("reused") == 7, again.output
    assert json.loads(Path("out/report.json").read_text()) == report

    [features] = Path("out").glob("stages/generate-0-*/out/features.npy")
    content = features.read_bytes()
    features.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    third = CliRunner().invoke(app, command)
    assert third.exit_code == 0 and third.output.count("reused") == 6, third.output
    assert features.read_bytes() == content


def test_names_in_messages_are_no_markup(tmp_path: Path) -> None:
    recipe = {"domain": {"name": "d", "classes": ["mug [/large]", "mug [/large]"]}, "size [red]": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert "size [red]" in result.output and "[/large]" in result.output


def test_a_recipe_run_twice_gives_the_same_bytes(teacher_folder: Path, sd_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(recipe_of(teacher_folder, sd_folder))
    encoders = [run_recipe(recipe, tmp_path / name, lambda task, event: None) for name in ("a", "b")]
    first, second = ((encoder / "open_clip_model.safetensors").read_bytes() for encoder in encoders)
    assert first == second and len(first) > 100_000


def recipe_of(teacher_folder: Path, sd_folder: Path, unlabelled: str | None = None) -> dict[str, Any]:
    agnostic = {"agnostic": {"source": unlabelled, "steps": 2}} if unlabelled else {}
    return {
        "domain": {"name": "Colours", "classes": list(NAMES)},
        "student": {"architecture": "test_resnet", "image_size": 48},
        "teacher": {"model": f"local-dir:{teacher_folder}"},
        "data": {
            "generator": {"model": str(sd_folder), "steps": 1},
            "images_per_class": 4,
            "holdout": 0.5,
            "filter": {"teacher_agrees": False, "near_constant": False},
        },
        "training": {"steps": 2, "batch_size": 4, **agnostic},
        "exports": {"int8": False},
        "evaluation": {"latency": False},
    }
