"""The evaluate stage on hand-made stage folders: every number against plain open_clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from distillation.datasets import import_dataset, read_info
from distillation.errors import DatasetError
from distillation.image_sets import ImageSet
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.stages import evaluate
from distillation.student_folder import read_student
from tests.distillation.stage_folders import NAMES, coloured_images, recipe, run_stage, stage_inputs


def write_photos(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    images, labels = coloured_images(9, 80)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if label < len(names):
            path = folder / names[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> dict[str, list[Path]]:
    return stage_inputs(tmp_path_factory.mktemp("stages"), recipe(str(teacher_folder)))


def test_scores_equal_those_of_plain_open_clip(
    tmp_path: Path, teacher_folder: Path, inputs: dict[str, list[Path]]
) -> None:
    wanted = recipe(str(teacher_folder), evaluation={"dataset": "ds_photos"})
    import_dataset(write_photos(tmp_path / "photos"), tmp_path / "ds_photos")
    summary, events = run_stage(
        evaluate, "evaluate", wanted, {**inputs, "dataset": [tmp_path / "ds_photos"]}, tmp_path / "out"
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{teacher_folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{teacher_folder}")
    student, described = read_student(inputs["distil"][0])
    student_transform = open_clip.image_transform(
        described["image_size"], is_train=False, mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711), interpolation="bicubic",
    )  # fmt: skip
    with torch.inference_mode():
        head = model.encode_text(tokenizer([f"a photo of a {name}" for name in NAMES]), normalize=True).T
        images, labels = coloured_images(9, 80)
        photos = [Image.fromarray(image) for image in images]
        teacher = model.encode_image(torch.stack([transform(p) for p in photos]), normalize=True) @ head
        features = student(torch.stack([student_transform(p) for p in photos]))
        mine = torch.nn.functional.normalize(features, dim=-1) @ head
    margins = [(one := scores.topk(2).values)[:, 0] - one[:, 1] for scores in (teacher, mine)]
    assert min(float(margin.min()) for margin in margins) > 1e-5, "a tie that rounding decides: take another seed"
    assert report["real"]["teacher"]["acc1"] == pytest.approx(np.mean(teacher.argmax(1).numpy() == labels))
    assert report["real"]["student"]["acc1"] == pytest.approx(np.mean(mine.argmax(1).numpy() == labels))
    assert report["real"]["agreement"] == pytest.approx((teacher.argmax(1) == mine.argmax(1)).float().mean().item())
    assert report["real"]["images"] == 36 and report["real"]["dataset"] == "ds_photos"

    held_out = [np.arange(36) % 3 == seed for seed in range(2)]
    whole = [np.load(f / "features.npy")[h, 0] for f, h in zip(inputs["generate"], held_out, strict=True)]
    truth = [np.load(f / "labels.npy")[h] for f, h in zip(inputs["generate"], held_out, strict=True)]
    predicted = (np.concatenate(whole).astype(np.float32) @ head.numpy()).argmax(1)
    assert report["synthetic"]["images"] == 24
    assert report["synthetic"]["teacher"]["acc1"] == pytest.approx(np.mean(predicted == np.concatenate(truth)))
    assert report["gap"]["student"] == pytest.approx(
        report["synthetic"]["student"]["acc1"] - report["real"]["student"]["acc1"]
    )
    assert report["generation"] == {
        "images": 72,
        "dropped": {"disagrees": 6, "near_constant": 2},
        "images_per_s": 20.0,
        "teacher_acc1": 0.75,
    }
    saving = report["student"]
    assert saving["saving_vs_image_tower"] == 1 - saving["params"] / report["teacher"]["params_image_tower"]
    assert saving["saving_vs_whole"] > saving["saving_vs_image_tower"]
    assert {row["on"] for row in report["per_class"]} == {"real"} and len(report["per_class"]) == 3
    assert summary == {name: report[name] for name in ("synthetic", "real", "gap")}
    assert events[-1]["done"] == events[-1]["total"] == 24 + 2 * 36


def test_without_photos_the_tables_are_about_synthetic_images(
    tmp_path: Path, teacher_folder: Path, inputs: dict[str, list[Path]]
) -> None:
    run_stage(evaluate, "evaluate", recipe(str(teacher_folder)), inputs, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["real"] is None and report["gap"] is None
    assert {row["on"] for row in report["per_class"]} == {"synthetic"}
    assert set(report["synthetic"]["student"]) == {"acc1", "acc5", "mean_per_class_recall"}


def test_a_missing_class_is_a_warning_and_no_class_an_error(
    tmp_path: Path, teacher_folder: Path, inputs: dict[str, list[Path]]
) -> None:
    wanted = recipe(str(teacher_folder), evaluation={"dataset": "ds_photos"})
    import_dataset(write_photos(tmp_path / "photos", ("red", "green")), tmp_path / "two")
    _, events = run_stage(evaluate, "evaluate", wanted, {**inputs, "dataset": [tmp_path / "two"]}, tmp_path / "out")
    assert [event["code"] for event in events if event["event"] == "warning"] == ["dataset_classes"]
    import_dataset(write_photos(tmp_path / "cars", ("car", "lorry")), tmp_path / "none")
    with pytest.raises(DatasetError, match="none of the dataset's classes"):
        run_stage(evaluate, "evaluate", wanted, {**inputs, "dataset": [tmp_path / "none"]}, tmp_path / "out")


def write_shard_summary(folder: Path, **more: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["summary"] |= more
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_photos_that_were_learnt_from_or_enlarged_are_noted(tmp_path: Path, teacher_folder: Path) -> None:
    import_dataset(write_photos(tmp_path / "photos"), tmp_path / "ds_photos")
    import_dataset(tmp_path / "photos", tmp_path / "small", side=63)
    wanted = recipe(str(teacher_folder), evaluation={"dataset": "ds_photos"})
    inputs = stage_inputs(tmp_path, wanted)

    def noted(dataset: str, source: str) -> list[str]:
        changed = recipe(
            str(teacher_folder), evaluation={"dataset": "ds_photos"}, training={"agnostic": {"source": source}}
        )
        given = {**inputs, "dataset": [tmp_path / dataset]}
        _, events = run_stage(evaluate, "evaluate", changed, given, tmp_path / "out")
        notes: list[str] = json.loads((tmp_path / "out" / "report.json").read_text())["real"]["notes"]
        assert notes == [event["message"] for event in events if event["event"] == "warning"]
        return notes

    assert noted("ds_photos", "ds_others") == []
    (student,) = noted("ds_photos", "ds_photos")
    assert "student learnt from these photos" in student
    (enlarged,) = noted("small", "ds_others")
    assert "stored at 63 pixels" in enlarged and "which takes 64" in enlarged
    for folder in inputs["generate"]:
        write_shard_summary(folder, learnt_from=["of a base", read_info(tmp_path / "ds_photos").fingerprint])
    (generator,) = noted("ds_photos", "ds_others")
    assert "generator learnt from these photos" in generator


def test_a_stop_is_noticed_between_batches(tmp_path: Path, teacher_folder: Path, inputs: dict[str, list[Path]]) -> None:
    request = Request("evaluate", 0, "0" * 64, recipe(str(teacher_folder)), inputs, tmp_path)
    with pytest.raises(Interrupted):
        evaluate.run(request, Reporter(stream=(tmp_path / "events").open("w"), stop_requested=True))


def test_nothing_held_out_is_an_error(tmp_path: Path, teacher_folder: Path) -> None:
    wanted = recipe(str(teacher_folder))
    inputs = stage_inputs(tmp_path, wanted)
    for shard in inputs["generate"]:
        np.save(shard / "holdout.npy", np.zeros(36, bool))
    with pytest.raises(StageError, match="held out"):
        run_stage(evaluate, "evaluate", wanted, inputs, tmp_path / "out")


def test_a_sample_of_images_keeps_their_labels() -> None:
    parts = [(np.full((4, 2, 2, 3), base, np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None],
              np.arange(4)) for base in (0, 4)]  # fmt: skip
    chosen = ImageSet(parts, np.arange(8)).sample(5, seed=3)
    pixels = np.concatenate(list(chosen.batches(2)))[:, 0, 0, 0]
    assert len(chosen) == 5 and pixels.tolist() == chosen.labels.tolist() == sorted(set(pixels.tolist()))
