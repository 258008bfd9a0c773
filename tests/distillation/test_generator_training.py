"""The training of a generator, whole: photos in, pipeline and figures out; stopped and taken up again."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from typer.testing import CliRunner

from distillation.__main__ import app
from distillation.checkpoints import load_newest
from distillation.datasets import read_info
from distillation.errors import DatasetError
from distillation.generator_recipe import GeneratorRecipe, classes_of, unusable_teacher
from distillation.generator_training import reading
from distillation.generator_training.critic import Critic
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.photos import split_photos
from distillation.plan import STARTER, plan_generator
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.runner import run_stage
from models.errors import ModelError
from models.teachers import load_teacher
from tests.distillation.generator_photos import COLOURS, photo_dataset, write_photos


def recipe(teacher: Path, **changes: Any) -> GeneratorRecipe:
    content = {"name": "things", "dataset": "ds_x", "teacher": {"model": str(teacher)}, "size": 32, "batch_size": 16}
    return GeneratorRecipe.model_validate({**content, "steps": 3, **changes})


class StopAfter(Reporter):
    """Asks for a stop once so many steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__(stream=io.StringIO())
        self.steps = steps

    def progress(self, done: int, total: int, unit: str, rate: float | None = None, **metrics: float) -> None:
        super().progress(done, total, unit, rate, **metrics)
        self.stop_requested = unit == "steps" and done >= self.steps


@pytest.fixture(autouse=True)
def few_reading_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """For bases: test_reading.py is about what is learnt in them."""
    monkeypatch.setattr(reading, "STEPS", 2)
    monkeypatch.setattr(reading, "CAPTIONS", 64)


@pytest.mark.parametrize("base", [None, "starter"])
def test_a_stopped_training_goes_on_to_the_same_weights(teacher_folder: Path, tmp_path: Path, base: str | None) -> None:
    photos = photo_dataset(tmp_path)

    def request(name: str) -> Request[GeneratorRecipe]:
        settings = recipe(teacher_folder, base=base)
        return Request("generator", 0, "key", settings, {"photos": [photos]}, tmp_path / name)

    whole, parts = request("whole"), request("parts")
    run_stage(whole, Reporter(stream=io.StringIO()))
    stopper = StopAfter(2)
    with pytest.raises(Interrupted):
        run_stage(parts, stopper)
    saved = load_newest(parts.out)
    assert saved is not None and saved[1]["step"] == 2
    told = [json.loads(line) for line in stopper.stream.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert {"event": "checkpoint", "step": 2, "path": "checkpoints/000002", "metrics": {}} in told
    run_stage(parts, Reporter(stream=io.StringIO()))
    for part in ("unet", "vae"):
        ours, theirs = (
            load_file(r.out / "generator" / part / "diffusion_pytorch_model.safetensors") for r in (parts, whole)
        )
        assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert not (parts.out / "checkpoints").exists()
    split = split_photos(photos, whole.recipe, print)
    critic = Critic(load_teacher(str(teacher_folder)), zero_shot_prompts(split.domain), 32)
    torch.manual_seed(whole.recipe.seed)
    bank = PhotoBank.fill(critic, split.read(split.training, 32))
    _check_report(whole.out, kept=len(bank.images))


def _check_report(out: Path, kept: int) -> None:
    report = json.loads((out / "generator" / "report.json").read_text())
    assert report == json.loads((out / "report.json").read_text())
    assert report["photos"] == {"training": kept, "held_out": 4} and report["classes"] == 4
    assert report["images"] == 512 and report["images_per_s"] > 0
    shares = [report["per_class"][name]["generated"] for name in sorted(COLOURS)]
    assert report["teacher_acc1"]["generated"] == pytest.approx(np.mean(shares), abs=1e-3)
    # Three steps make nothing like a photo: generated images are farther from photos than photos are.
    assert report["kid"]["generated"]["mean"] > report["kid"]["held_out_halves"]["mean"]
    assert report["variety"] is None, "one photo of each class is held out: nothing to compare with"
    assert report["nearest_training_photo"]["generated"]["smallest_rms"] > 0
    assert len((out / "curve.jsonl").read_text().splitlines()) == 3
    card = ModelCard.load(out / "generator" / "README.md")
    assert "4 classes" in card.text and "not stated" in str(card.data.get("license_name"))


@pytest.mark.usefixtures("preloaded_stages")
def test_the_command_makes_a_pipeline_and_reuses_it(teacher_folder: Path, tmp_path: Path) -> None:
    photos, out, yaml = write_photos(tmp_path / "photos", of_class=4), tmp_path / "out", tmp_path / "recipe.yaml"
    yaml.write_text(f"{{size: 32, batch_size: 8, minutes: 5, name: some things, teacher: {{model: {teacher_folder}}}}}")
    arguments = ["train-generator", str(yaml), "--dataset", str(photos), "--out", str(out), "--steps", "1"]
    first = CliRunner().invoke(app, [*arguments, "--licence", "CC0-1.0"])
    assert first.exit_code == 0, first.output
    assert "1/1 steps" in first.output
    report = json.loads((out / "report.json").read_text())
    assert (report["name"], report["training"]["steps"], report["licence"]) == ("some things", 1, "CC0-1.0")
    assert (out / "generator" / "model_index.json").is_file()
    again = CliRunner().invoke(app, [*arguments, "--licence", "CC0-1.0"])
    assert again.exit_code == 0 and "reused" in again.output
    wrong = CliRunner().invoke(app, ["train-generator", "--out", str(out), "--size", "20", "--batch-size", "9"])
    assert wrong.exit_code == 2
    assert all(field in wrong.output for field in ("name", "dataset", "size", "batch_size"))


def test_training_goes_on_from_a_generator(teacher_folder: Path, tmp_path: Path) -> None:
    photos = photo_dataset(tmp_path, of_class=10)

    def train(name: str, teacher: Path = teacher_folder, **changes: Any) -> Path:
        out, settings = tmp_path / name, recipe(teacher, steps=1, holdout=0.3, **changes)
        run_stage(Request("generator", 0, name, settings, {"photos": [photos]}, out), Reporter(stream=io.StringIO()))
        return out / "generator"

    def weights(folder: Path) -> torch.Tensor:
        return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].float()

    first = train("first", STARTER / "teacher", licence="CC0-1.0")
    second, new = train("second", base=str(first), licence="mine", seed=1), train("new", seed=1)
    assert torch.allclose(weights(second), weights(first), atol=1e-3)
    assert not torch.allclose(weights(new), weights(first), atol=1e-3)
    encoders = [(folder / "text_encoder" / "model.safetensors").read_bytes() for folder in (second, new, first)]
    assert encoders[0] == encoders[1] != encoders[2], "of the teacher, not of the base"
    report, card = json.loads((second / "report.json").read_text()), ModelCard.load(second / "README.md").text
    assert report["base"] == str(first) and str(first) in card
    apart = report["variety"]
    assert 0 <= apart["generated"] <= 2 and 0 < apart["held_out"] <= 2
    assert f"| {apart['generated']:.4f} | {apart['held_out']:.4f} |" in card
    assert report["licence"] == "mine; of the base's photos: CC0-1.0" and report["licence"] in card
    fingerprint = read_info(photos).fingerprint
    assert report["learnt_from"] == [fingerprint, fingerprint], "its own photos, and its base's"


def test_photos_are_split_by_class_and_seed(tmp_path: Path, teacher_folder: Path) -> None:
    photos, warned = photo_dataset(tmp_path, of_class=10), []
    split = split_photos(photos, recipe(teacher_folder, holdout=0.3), lambda *told: warned.append(told))
    assert np.bincount(split.labels[split.held_out]).tolist() == [3] * 4
    assert not set(split.held_out) & set(split.training) and len(split.training) == 28
    again = split_photos(photos, recipe(teacher_folder, holdout=0.3), print)
    assert np.array_equal(again.held_out, split.held_out)
    other = split_photos(photos, recipe(teacher_folder, holdout=0.3, seed=1), print)
    assert not np.array_equal(other.held_out, split.held_out)
    thinned = split.thinned(12)
    assert np.bincount(split.labels[thinned.training]).tolist() == [3] * 4 and len(thinned.held_out) == 12
    some = split.read(split.held_out, 16)
    assert some.images.shape == (12, 16, 16, 3) and some.labels.tolist() == split.labels[split.held_out].tolist()
    assert warned == []
    split_photos(photos, recipe(teacher_folder, size=64), lambda *told: warned.append(told))
    assert [code for code, _ in warned] == ["photos_enlarged"]


def test_classes_are_the_datasets_or_the_recipes(tmp_path: Path, teacher_folder: Path) -> None:
    photos = photo_dataset(tmp_path)
    chosen = ["sand", {"name": "fire engine", "synonyms": ["red thing"]}]
    split = split_photos(photos, recipe(teacher_folder, classes=chosen), print)
    assert split.domain.class_names == ["sand", "fire engine"]
    names = read_info(photos).classes
    assert [names[i] for i in np.unique(np.load(photos / "labels.npy")[split.training])] == ["red thing", "sand"]
    with pytest.raises(DatasetError, match="no photos of 'moon'"):
        split_photos(photos, recipe(teacher_folder, classes=["sand", "moon"]), print)
    plain = recipe(teacher_folder)
    domain, mapping, _ = classes_of(plain, ["granny_smith, apple", "crane, bird", "crane_machine, crane, derrick"])
    assert domain.class_names == ["granny smith", "crane", "crane machine"]
    assert [item.synonyms for item in domain.classes] == [("apple",), ("bird",), ("derrick",)]
    assert mapping == {0: 0, 1: 1, 2: 2}
    for unusable in ([], ["cat, pet", "cat, animal"], ["cat"]):
        with pytest.raises(DatasetError):
            classes_of(plain, unusable)


def test_poor_classes_are_left_out_or_refused(tmp_path: Path, teacher_folder: Path) -> None:
    photos, warned = photo_dataset(tmp_path, of_class=6), []
    labels = np.load(photos / "labels.npy")
    (photos / "labels.npy").unlink()
    labels[np.flatnonzero(labels == 1)[2:]] = -1
    np.save(photos / "labels.npy", labels)
    split = split_photos(photos, recipe(teacher_folder), lambda *told: warned.append(told))
    poor = read_info(photos).classes[1]
    assert poor not in split.domain.class_names and len(split.domain.classes) == 3
    assert warned[0][0] == "classes_left_out" and f"'{poor}' (2)" in warned[0][1]
    assert set(split.labels[split.training]) == {0, 1, 2}
    with pytest.raises(DatasetError, match="too few photos"):
        split_photos(photos, recipe(teacher_folder, classes=[poor, "sand"]), print)


def test_the_key_follows_what_decides_the_result(teacher_folder: Path) -> None:
    def key(photos: str = "photos", teacher: Path = teacher_folder, **changes: Any) -> str:
        return plan_generator(recipe(teacher, **changes), lambda _: photos)[0].key

    assert key() == key(dataset="ds_y")  # another upload of the same photos
    others = {key("others"), key(seed=1), key(size=64), key(licence="mine"), key(teacher=STARTER / "teacher")}
    others |= {key(base="starter"), key(base="gen_" + "0" * 26)}
    assert len({key(), *others}) == 8


def test_teachers_that_cannot_guide(teacher_folder: Path, tmp_path: Path) -> None:
    described = json.loads((teacher_folder / "open_clip_config.json").read_text())["model_cfg"]
    assert unusable_teacher(described) is None
    assert "timm" in str(unusable_teacher({**described, "vision_cfg": {"layers": 12}}))
    assert "text tower" in str(unusable_teacher({**described, "text_cfg": {"hf_model_name": "roberta-base"}}))
    away = recipe(tmp_path / "nowhere")
    with pytest.raises((ModelError, StageError)) as raised:
        run_stage(Request("generator", 0, "key", away, {"photos": [tmp_path]}, tmp_path / "out"), Reporter())
    assert getattr(raised.value, "field", "") == "teacher.model"
