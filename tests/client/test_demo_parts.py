"""Parts of the demo that need no service; `make demo` itself runs the whole."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from demo import use_onnx
from demo.demo import RECIPE, Findings, check_report, first_of_each_class
from demo.grid import draw_grid
from demo.photos import some_photos
from demo.service import ServiceError, embedded_service, log_tails
from demo.summary import goals, summary
from distillation.plan import STARTER
from distillation.recipe import load_recipe
from tests.api.seeds import CLASSES, MEAN, SIDE, STD, classifier_onnx, picture
from tests.client.test_views import report, scores

TEACHER = STARTER / "teacher"


def jobs() -> tuple[dict[str, Any], dict[str, Any]]:
    stages = [{"stage": name, "tasks": 2, "reused": 0, "seconds": 5.0} for name in ("prompts", "generate", "distil")]
    first = {
        "id": "job_1",
        "encoder_id": "enc_1",
        "created_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:02:00Z",
        "stages": stages,
    }
    again = [{**stage, "reused": 2, "seconds": 0.0} for stage in stages[:2]]
    return first, {**first, "id": "job_2", "finished_at": "2026-01-01T00:00:30Z", "stages": [*again, stages[2]]}


def test_the_recipe_of_the_demo_is_valid() -> None:
    recipe = load_recipe(RECIPE)
    assert len(recipe.domain.classes) >= 10
    assert yaml.safe_load(RECIPE.read_text())["student"] == {"size": "s"}


def test_summary_of_two_jobs() -> None:
    first, second = jobs()
    real = {"images": 50, "teacher": scores(0.5), "student": scores(0.4), "agreement": 0.6}
    found = Findings(first=first, second=second, report=report(real=real), second_report=report(), checks={"a": True})
    figures = summary(found)
    assert figures["seconds"] == 120 and figures["second_run"]["seconds"] == 30
    assert figures["second_run"]["times_faster"] == 4 and figures["second_run"]["goal_reached"]
    assert figures["second_run"]["reused"] == {"prompts": 2, "generate": 2}
    assert figures["acc1"] == {
        "synthetic": {"images": 1200, "teacher": 0.9123, "student": 0.8},
        "real": {"images": 50, "teacher": 0.5, "student": 0.4},
    }
    assert figures["images_generated"] == 1200
    assert figures["files"][0]["name"] == "image_encoder.onnx"


def test_checks_can_fail() -> None:
    good = report(classes=12)
    assert all(check_report(good, with_real=False).values())
    assert not all(check_report(good, with_real=True).values())
    assert "real photos were measured" not in check_report(good, with_real=False)
    collapsed = {**good["synthetic"], "student": scores(1 / 12)}
    stranger = {**good["synthetic"], "agreement": 0.15}
    for weak in (collapsed, stranger):
        assert list(check_report({**good, "synthetic": weak}, with_real=False).values()).count(False) == 1


def test_goals_can_be_missed() -> None:
    without = report(classes=12)
    assert goals(without, 3.5) == {"the second job is 3 times faster": True}
    photos = {"images": 300, "teacher": scores(0.6), "student": scores(0.1), "agreement": 0.1}
    assert list(goals({**without, "real": photos}, 2.9).values()) == [True, False, False]


def test_grid_holds_every_class(tmp_path: Path) -> None:
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}
    samples = []
    for name, colour in colours.items():
        for index in range(2):
            Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}{index}.png")
            samples.append({"file": f"{name}{index}.png", "class": name})
    draw_grid(samples, tmp_path, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        seen = {colour for _, colour in image.getcolors(1 << 20) or []}
    assert set(colours.values()) <= seen
    assert [name for _, name in first_of_each_class(samples, tmp_path)] == sorted(colours)
    assert first_of_each_class(samples, tmp_path)[0][0].name == "blue0.png"


def test_real_photos_of_each_kind_of_source(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("limousine, limo", "Tractor", "teapot"):
        (tree / name).mkdir(parents=True)
        (tree / name / "1.jpg").write_bytes(picture((200, 10, 10)))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in tree.rglob("*.jpg"):
            archive.write(path, path.relative_to(tree))
    for source in (tree, tmp_path / "photos.zip"):
        found = some_photos(source, ["tractor", "limo", "go-kart"], tmp_path / "photos")
        assert [name for _, name in found] == ["tractor", "limo"]
        assert all(path.read_bytes() == picture((200, 10, 10)) for path, _ in found)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize(("size", "side"), [((64, 64), 48), ((97, 64), 48), ((50, 81), 48), ((392, 500), 64)])
def test_image_preprocessing_is_that_of_open_clip(tmp_path: Path, mode: str, size: tuple[int, int], side: int) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    (tmp_path / "noise.png").write_bytes(buffer.getvalue())
    how = {
        "size": side,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": mode,
    }
    ours = use_onnx.load_image(tmp_path / "noise.png", how)
    theirs = image_transform_v2(PreprocessCfg(**how), is_train=False)(Image.fromarray(noise))
    assert np.abs(ours - np.asarray(theirs)).max() < 1e-5


def test_a_photo_that_a_note_turns_is_seen_upright_by_both_programs(tmp_path: Path) -> None:
    from demo import use_open_clip

    encoder = tmp_path / "encoder"
    shutil.copytree(TEACHER, encoder)
    (encoder / "labels.json").write_text(json.dumps({"labels": ["up", "down"], "prompts": [["up"], ["down"]]}))
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    lying = Image.fromarray(noise)
    exif = lying.getexif()
    exif[0x0112] = 6  # turn it a quarter clockwise, as phones write it
    paths = [tmp_path / "lying.png", tmp_path / "upright.png"]
    lying.save(paths[0], exif=exif)
    lying.transpose(Image.Transpose.ROTATE_270).save(paths[1])
    features, _, _ = use_open_clip.run(encoder, paths)
    assert np.abs(features[0] - features[1]).max() < 1e-5
    how = {"size": 48, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    assert np.array_equal(*(use_onnx.load_image(path, how) for path in paths))


@pytest.mark.parametrize("name", ["classifier.onnx", "classifier.int8.onnx"])
def test_three_files_are_enough_on_a_device(tmp_path: Path, name: str) -> None:
    how = {"size": SIDE, "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (tmp_path / name).write_bytes(classifier_onnx())
    (tmp_path / "labels.json").write_text(json.dumps({"labels": CLASSES}))
    (tmp_path / "preprocess.json").write_text(json.dumps(how))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture((250, 10, 10)))
    command = [sys.executable, use_onnx.__file__, tmp_path, photo]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("photo.jpg: red thing (")


def test_a_service_that_cannot_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(ServiceError, match="ended at once"), embedded_service(tmp_path / "home", tmp_path / "log"):
        pass
    assert "home" in log_tails(tmp_path / "home", tmp_path / "log")
