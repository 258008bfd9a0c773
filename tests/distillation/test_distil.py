"""The stages distil and agnostic, whole, on tiny folders."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from distillation import distilling, photo_decoding
from distillation.errors import DatasetError
from distillation.protocol import Interrupted, StageError
from distillation.stages import agnostic, distil, embed
from distillation.unlabelled import dataset_photos, encoded_photos
from models.students import build_student, count_params
from models.teachers import load_teacher
from tests.distillation.stage_folders import coloured_images
from tests.distillation.training_folders import Heard, request, training, training_recipe


def distilled(out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads((out / "student.json").read_text()), load_file(out / "student.safetensors")


def test_distil_writes_a_student_that_follows_the_teacher(
    teacher_folder: Path, shards: list[Path], tmp_path: Path
) -> None:
    wanted = training_recipe(teacher_folder, steps=60, lr=5e-3)
    summary = distil.run(request("distil", wanted, {"generate": shards}, tmp_path), Heard())
    described, weights = distilled(tmp_path)
    student = build_student(described["model_cfg"])
    student.load_state_dict(weights)
    assert described["params"] == count_params(student) and described["macs"] > 0
    assert (described["architecture"], described["image_size"], described["embed_dim"]) == ("test_resnet", 48, 48)
    assert described["init"] == summary["init"] == "scratch"
    assert summary["steps"] == 60 and summary["images_per_s"] > 0
    assert summary["holdout_cosine"] > 0.9 and 0 <= summary["agreement"] <= 1
    json.dumps(summary)


def test_two_runs_give_the_same_bytes(teacher_folder: Path, shards: list[Path], tmp_path: Path) -> None:
    wanted = training_recipe(teacher_folder, steps=4, losses={"l2": 1.0, "crd": 0.1, "afd": 0.1})
    for name in ("a", "b"):
        distil.run(request("distil", wanted, {"generate": shards}, tmp_path / name), Heard())
    assert (tmp_path / "a/student.safetensors").read_bytes() == (tmp_path / "b/student.safetensors").read_bytes()


def test_distil_starts_from_the_agnostic_student(teacher_folder: Path, shards: list[Path], tmp_path: Path) -> None:
    """With a learning rate of almost nothing the student stays what it was given."""
    wanted = training_recipe(teacher_folder, steps=1, lr=1e-12, ema=None, weight_decay=0)
    distil.run(request("distil", wanted, {"generate": shards}, tmp_path / "first"), Heard())
    _, weights = distilled(tmp_path / "first")
    changed = {k: v + 0.01 if v.is_floating_point() else v for k, v in weights.items()}
    save_file(changed, tmp_path / "first" / "student.safetensors")
    inputs = {"generate": shards, "agnostic": [tmp_path / "first"]}
    summary = distil.run(request("distil", wanted, inputs, tmp_path / "second"), Heard())
    described, after = distilled(tmp_path / "second")
    assert summary["init"] == described["init"] == "agnostic"
    for name, _ in build_student(described["model_cfg"]).named_parameters():
        torch.testing.assert_close(after[name], changed[name])


def test_distil_starts_from_a_base_student(
    teacher_folder: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = training_recipe(teacher_folder, steps=1, lr=1e-12, ema=None)
    distil.run(request("distil", wanted, {"generate": shards}, tmp_path / "base"), Heard())
    monkeypatch.setattr(distilling, "base_student", lambda recipe: tmp_path / "base")
    summary = distil.run(request("distil", wanted, {"generate": shards}, tmp_path / "out"), Heard())
    assert summary["init"] == "base"


def test_impossible_students_are_explained(teacher_folder: Path, shards: list[Path], tmp_path: Path) -> None:
    wanted = training_recipe(teacher_folder)
    for student, code in (
        ({"max_params": 100}, "impossible_budget"),
        ({"fewer_params": 99}, "impossible_budget"),
        ({"architecture": "NO"}, "bad_architecture"),
    ):
        recipe = wanted.model_copy(update={"student": wanted.student.model_validate(student)})
        with pytest.raises(StageError) as caught:
            distil.run(request("distil", recipe, {"generate": shards}, tmp_path), Heard())
        assert caught.value.code == code and caught.value.field == f"student.{next(iter(student))}"


def test_a_share_of_the_image_tower_is_taken_of_the_loaded_teacher(
    teacher_folder: Path, shards: list[Path], tmp_path: Path
) -> None:
    """Whatever was guessed when the job was submitted."""
    wanted = training_recipe(teacher_folder, steps=1)
    recipe = wanted.model_copy(update={"student": wanted.student.model_validate({"fewer_params": 40})})
    distil.run(request("distil", recipe, {"generate": shards}, tmp_path), Heard())
    described, _ = distilled(tmp_path)
    assert described["architecture"] == "test_convnext"  # of a ViT-B-32's tower it would be the largest, resnet10t
    assert described["params"] <= 0.6 * load_teacher(str(teacher_folder)).params_image_tower


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(params=["dataset", "parquet", "tar"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, list[Path]]]:
    """Unlabelled photos in each form: what the recipe says, and the stage's inputs."""
    images = np.concatenate([coloured_images(seed, 80)[0] for seed in range(2)])
    if request.param == "dataset":
        (tmp_path / "photos").mkdir()
        np.save(tmp_path / "photos" / "images.npy", images)
        (tmp_path / "photos" / "dataset.json").write_text("{}")
        return "ds_photos", {"agnostic_source": [tmp_path / "photos"]}
    files = [jpeg(image) for image in images] + [b"broken"]
    if request.param == "parquet":
        table = pa.table({"image": [{"bytes": content, "path": None} for content in files]})
        pq.write_table(table, tmp_path / "photos.parquet")
        return str(tmp_path / "photos.parquet"), {}
    with tarfile.open(tmp_path / "photos-0.tar", "w") as archive:
        for index, content in enumerate(files):
            for name, data in ((f"{index:04d}.jpg", content), (f"{index:04d}.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(tmp_path / "photos-{0..0}.tar"), {}


def test_agnostic(
    source: tuple[str, dict[str, list[Path]]], teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "SHARD", 30)
    name, inputs = source
    wanted = training_recipe(
        teacher_folder,
        losses={"contrastive": 1.0, "crd": 1.0, "gd": 1.0, "afd": 1.0},
        agnostic={"source": name, "steps": 40},
        lr=5e-3,
    )
    photos, out = tmp_path / "embedded", tmp_path / "out"
    photos.mkdir()
    with pytest.raises(Interrupted):
        embed.run(request("embed", wanted, inputs, photos), Heard(stop_after=2))
    kept = photos / "00000" / "pixels.npy"
    written = kept.stat().st_mtime_ns
    embed.run(request("embed", wanted, inputs, photos), Heard())
    assert kept.stat().st_mtime_ns == written, "what an earlier attempt has embedded is kept"
    pixels = [np.load(folder / "pixels.npy") for folder in embed.photo_folders(photos)]
    assert [part.shape for part in pixels] == [(30, 73, 73, 3), (30, 73, 73, 3), (12, 73, 73, 3)]
    summary = agnostic.run(request("agnostic", wanted, {"embed": [photos]}, out), Heard())
    assert summary["steps"] == 40 and summary["holdout_cosine"] > 0.8
    assert distilled(out)[0]["init"] == "scratch"
    assert "agreement" not in summary


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The photos that have been decoded."""
    found: list[bytes] = []
    decode = photo_decoding.decode_square

    def noted(content: bytes, side: int) -> np.ndarray:
        found.append(content)
        return decode(content, side)

    monkeypatch.setattr(photo_decoding, "decode_square", noted)
    return found


def test_each_process_decodes_its_own_photos_and_the_order_is_that_of_one(
    teacher_folder: Path, tmp_path: Path, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of ten places; a broken photo shortens its own, and one without a photo is left out."""
    monkeypatch.setattr(embed, "SHARD", 10)
    files = [jpeg(image) for image in coloured_images(0, 80)[0]]
    files[3] = files[12] = b"broken"
    files[20:20] = [b"broken"] * 10
    source = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": files}), source)
    wanted = training_recipe(teacher_folder, agnostic={"source": str(source)})
    alone = embed.run(request("embed", wanted, {}, tmp_path / "alone"), Heard())
    assert len(decoded) == len(files) == 46

    monkeypatch.setattr(embed, "size", lambda: 3)
    for rank, own in enumerate((20, 16, 10)):  # the last folder has six
        decoded.clear()
        monkeypatch.setattr(embed, "rank", lambda rank=rank: rank)
        shared = embed.run(request("embed", wanted, {}, tmp_path / "shared"), Heard())
        assert len(decoded) == own
    assert shared["photos"] == alone["photos"] == 34
    decoded.clear()
    embed.run(request("embed", wanted, {}, tmp_path / "alone"), Heard())
    assert decoded == [b"broken"] * 10, "of an earlier attempt's folders nothing is decoded again"

    one, three = (embed.photo_folders(tmp_path / name) for name in ("alone", "shared"))
    assert [folder.name for folder in one] == [folder.name for folder in three] == ["00000", "00001", "00003", "00004"]
    assert [len(np.load(folder / "pixels.npy")) for folder in one] == [9, 9, 10, 6]
    for ours, theirs in zip(one, three, strict=True):
        for name in ("pixels", "views", "features", "holdout"):
            assert np.array_equal(np.load(ours / f"{name}.npy"), np.load(theirs / f"{name}.npy")), (ours, name)


def test_a_broken_photo_shifts_no_other(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "SHARD", 10)
    files = [jpeg(image) for image in coloured_images(0, 80)[0]]
    views = {}
    for name in ("whole", "damaged"):
        source = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": files}), source)
        wanted = training_recipe(teacher_folder, agnostic={"source": str(source)})
        embed.run(request("embed", wanted, {}, tmp_path / name), Heard())
        views[name] = [np.load(folder / "views.npy") for folder in embed.photo_folders(tmp_path / name)]
        files[3] = b"broken"
    views["whole"][0] = np.delete(views["whole"][0], 3, axis=0)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*views.values(), strict=True))


@pytest.mark.parametrize("readable", [0, 1])
def test_too_few_readable_photos(readable: int, teacher_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos.parquet"
    files = [jpeg(image) for image in coloured_images(0, 80)[0]][:readable] + [b"broken"] * 3
    pq.write_table(pa.table({"image": files}), source)
    wanted = training_recipe(teacher_folder, agnostic={"source": str(source)})
    with pytest.raises(StageError, match=f"photos.parquet holds {readable} readable photos"):
        embed.run(request("embed", wanted, {}, tmp_path / "out"), Heard())


def test_photos_are_mixed_into_the_second_phase(teacher_folder: Path, shards: list[Path], tmp_path: Path) -> None:
    """A student that may see no green learns green from the photos: the agreement on all held-out images tells."""
    shutil.copytree(shards[1], tmp_path / "photos" / "00000")
    reds = shutil.copytree(shards[0], tmp_path / "reds")
    np.save(reds / "holdout.npy", np.load(reds / "holdout.npy") | (np.load(reds / "labels.npy") == 1))
    inputs = {"generate": [reds], "embed": [tmp_path / "photos"]}
    scores = {}
    for mix in (0, 0.5):
        wanted = training_recipe(teacher_folder, steps=60, lr=5e-3, agnostic={"source": "photos.tar", "mix": mix})
        given = inputs if mix else {"generate": [reds]}
        scores[mix] = distil.run(request("distil", wanted, given, tmp_path / f"{mix}"), Heard())["holdout_cosine"]
    assert scores[0.5] > scores[0] + 0.05


def test_the_agnostic_phase_keeps_the_losses_that_need_no_caption() -> None:
    phase = agnostic.Agnostic(source="photos.tar")
    unified = training(losses={"crd": 1, "mse": 2000, "contrastive": 1, "mfd": 2000, "gd": 1, "afd": 1})
    assert agnostic._phase(unified, phase).losses == {"mse": 2000, "mfd": 2000}
    assert agnostic._phase(training(losses={"crd": 1, "afd": 1}), phase).losses == {"l2": 1.0}


def test_agnostic_takes_as_many_as_asked(source: tuple[str, dict[str, list[Path]]]) -> None:
    """All but a few of them, too: every second one would be far fewer."""
    name, inputs = source
    for asked in (20, 60):
        given = embed.given_photos(
            request("embed", training_recipe(Path("/x"), agnostic={"source": name}), inputs, Path("/tmp")),
            agnostic.Agnostic(source=name, max_images=asked),
            64,
        )
        assert len(list(given.decode(given.photos))) == given.most == asked


def test_progress_of_a_dataset_ends_at_its_size(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((5, 32, 32, 3), np.uint8))
    photos, count = dataset_photos(tmp_path, 100_000)
    assert len(list(photos)) == count == 5


@pytest.mark.parametrize("name", ["nowhere.parquet", "nowhere.tar", "empty"])
def test_sources_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=name):
        list(encoded_photos(str(tmp_path / name), 10))
