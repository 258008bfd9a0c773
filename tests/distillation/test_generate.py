"""The generate stage end to end on tiny pipelines: files, filters, counts, interruption."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distillation.protocol import INTERRUPTED, Interrupted, Reporter, Request, StageError, is_whole
from distillation.recipe import Recipe
from distillation.sampling_plan import image_seed
from distillation.stage_process import StageProcess
from distillation.stages import generate, prompts
from distillation.views import apply_views, whole_views
from models.sampling import Sampler
from models.teachers import load_teacher

CLASSES = ["goldfish", "trolleybus", "lemon"]
WAIT_SECONDS = 120
OUTPUTS = [
    "features.npy", "holdout.npy", "images.jsonl", "images.tar", "labels.npy", "pixels.npy", "samples", "samples.json",
    "views.npy",
]  # fmt: skip


def make_recipe(generator: Path, teacher: Path, **data: Any) -> Recipe:
    filters = {"teacher_agrees": False, **data.pop("filter", {})}
    return Recipe.model_validate(
        {
            "domain": {"name": "things", "classes": CLASSES},
            "teacher": {"model": f"local-dir:{teacher}"},
            "data": {
                "generator": {"model": str(generator), "steps": 2, "guidance": 2.0, "batch_size": 4},
                "images_per_class": 6,
                "holdout": 0.2,
                "shard_size": 16,
                "filter": filters,
                **data,
            },
            "training": {"views": 3},
        }
    )


def make_request(recipe: Recipe, folder: Path, shard: int = 0) -> Request:
    prompts_folder, out = folder / "prompts", folder / f"shard-{shard}"
    prompts_folder.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    prompts.run(Request("prompts", 0, "", recipe, {}, prompts_folder), Reporter(io.StringIO()))
    return Request("generate", shard, "key", recipe, {"prompts": [prompts_folder]}, out)


def events(report: Reporter) -> list[dict[str, Any]]:
    assert isinstance(report.stream, io.StringIO)
    return [json.loads(line) for line in report.stream.getvalue().splitlines()]


def line_of(child: StageProcess) -> str:
    line = child.line(WAIT_SECONDS)
    assert line is not None, child.stderr_tail
    return line


def file_bytes(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("family", ["sd_folder", "sdxl_folder"])
def test_shards_hold_what_the_contract_says(
    family: str, request: pytest.FixtureRequest, teacher_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(request.getfixturevalue(family), teacher_folder)
    report = Reporter(io.StringIO())
    first, second = make_request(recipe, tmp_path), make_request(recipe, tmp_path, shard=1)
    summary = generate.run(first, report)
    assert summary["learnt_from"] == [], "the pipeline does not say"
    generate.run(second, Reporter(io.StringIO()))

    out = first.out
    assert sorted(p.name for p in out.iterdir()) == OUTPUTS
    arrays = {path.stem: np.load(path) for path in out.glob("*.npy")}
    shapes = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    assert shapes == {
        "pixels": ((16, 64, 64, 3), "uint8"),
        "labels": ((16,), "int32"),
        "holdout": ((16,), "bool"),
        "views": ((16, 3, 5), "float32"),
        "features": ((16, 3, 48), "float16"),
    }
    lines = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    more = [json.loads(line) for line in (second.out / "images.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines + more] == list(range(18))
    for line, label, holdout in zip(lines, arrays["labels"], arrays["holdout"], strict=True):
        assert set(line) == {"index", "class", "label", "prompt", "seed", "split", "attempts", "generator"}
        assert line["label"] == label == CLASSES.index(line["class"])
        assert line["class"] in line["prompt"]
        assert line["split"] == ("holdout" if holdout else "train")
        assert line["seed"] == image_seed(recipe.data.seed, line["index"], 0)
    for name in CLASSES:
        assert sum(line["class"] == name and line["split"] == "holdout" for line in lines + more) == 2

    with tarfile.open(out / "images.tar") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [f"{i:08d}.jpg" for i in range(16)]
        for member, pixels in zip(members, arrays["pixels"], strict=True):
            content = archive.extractfile(member)
            assert content is not None
            decoded = np.asarray(Image.open(io.BytesIO(content.read()))).astype(int)
            assert np.abs(decoded - pixels).mean() < 25, "noise compresses badly, but it is this image"
    assert not (second.out / "samples.json").exists(), "samples do not grow with the images"
    samples = json.loads((out / "samples.json").read_text())
    assert sorted(sample["class"] for sample in samples) == sorted(CLASSES * 2)
    assert all(Image.open(out / sample["file"]).size == (64, 64) for sample in samples)

    assert summary["images"] == 16
    assert summary["dropped"] == {"disagrees": 0, "near_constant": 0}
    assert events(report)[-1] | {"rate": 0} == {
        "event": "progress", "done": 16, "total": 16, "unit": "images", "rate": 0, "metrics": {"dropped": 0},
    }  # fmt: skip


def test_cached_features_are_the_teachers_on_those_views(sd_folder: Path, teacher_folder: Path, tmp_path: Path) -> None:
    request = make_request(make_recipe(sd_folder, teacher_folder), tmp_path)
    generate.run(request, Reporter(io.StringIO()))
    teacher = load_teacher(f"local-dir:{teacher_folder}")
    pixels = torch.from_numpy(np.load(request.out / "pixels.npy"))
    views = torch.from_numpy(np.load(request.out / "views.npy"))
    features = torch.from_numpy(np.load(request.out / "features.npy")).float()
    for view in range(3):
        seen = apply_views(pixels, views[:, view], 64, torch.tensor(teacher.mean), torch.tensor(teacher.std))
        assert (teacher.encode_image(seen) * features[:, view]).sum(-1).min() > 0.999
    assert torch.equal(views[:, 0], whole_views(16))
    assert len(views[:, 1:].flatten(0, 1).unique(dim=0)) == 32, "every crop is another one"


def blacken(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Give black images for these seeds, as a safety checker would."""
    sample = Sampler.sample

    def blackened(self: Sampler, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        images = sample(self, texts, seeds).clone()
        images[[seed in bad for seed in seeds]] = 0
        return images

    monkeypatch.setattr(Sampler, "sample", blackened)


def test_black_images_are_made_again_and_counted(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blacken(monkeypatch, {image_seed(0, 1, 0), image_seed(0, 5, 0), image_seed(0, 5, 1)})
    request = make_request(make_recipe(sd_folder, teacher_folder), tmp_path)
    summary = generate.run(request, Reporter(io.StringIO()))
    assert (summary["images"], summary["dropped"]) == (16, {"disagrees": 0, "near_constant": 3})
    lines = [json.loads(line) for line in (request.out / "images.jsonl").read_text().splitlines()]
    assert [line["attempts"] for line in lines] == [1, 2, 1, 1, 1, 3] + [1] * 10
    assert lines[5]["seed"] == image_seed(0, 5, 2)
    assert np.load(request.out / "pixels.npy").std(axis=(1, 2, 3)).min() > 4


def test_an_image_that_no_try_makes_is_left_out_with_a_warning(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blacken(monkeypatch, {image_seed(0, 4, attempt) for attempt in range(2)})
    recipe = make_recipe(sd_folder, teacher_folder, filter={"max_attempts": 2})
    request, report = make_request(recipe, tmp_path), Reporter(io.StringIO())
    summary = generate.run(request, report)
    assert (summary["images"], summary["dropped"]) == (15, {"disagrees": 0, "near_constant": 2})
    indices = [json.loads(line)["index"] for line in (request.out / "images.jsonl").read_text().splitlines()]
    assert indices == [0, 1, 2, 3, *range(5, 16)]
    assert all(len(np.load(request.out / f"{n}.npy")) == 15 for n in ("pixels", "labels", "views", "features"))
    warnings = [event for event in events(report) if event["event"] == "warning"]
    assert [warning["code"] for warning in warnings] == ["images_missing"]
    assert "'trolleybus' 4 of 5" in warnings[0]["message"]


def test_a_class_that_loses_most_of_its_images_fails_the_job(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blacken(monkeypatch, {image_seed(0, index, n) for index in (2, 5, 8) for n in range(2)})
    recipe = make_recipe(sd_folder, teacher_folder, filter={"max_attempts": 2})
    with pytest.raises(StageError, match=r"'lemon' \(2 of 5\)") as caught:
        generate.run(make_request(recipe, tmp_path), Reporter(io.StringIO()))
    assert caught.value.code == "too_many_dropped"


def test_a_teacher_that_disagrees_with_everything_fails_the_job(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    """A random teacher sees one class everywhere, so at least two thirds of the first tries are dropped."""
    recipe = make_recipe(sd_folder, teacher_folder, filter={"teacher_agrees": True, "max_dropped": 0.2})
    with pytest.raises(StageError, match="that the teacher took for another class") as caught:
        generate.run(make_request(recipe, tmp_path), Reporter(io.StringIO()))
    assert (caught.value.code, caught.value.field) == ("too_many_dropped", "data.filter.max_dropped")


def test_an_interrupted_shard_goes_on_to_the_same_files(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blacken(monkeypatch, {image_seed(0, 1, 0), image_seed(0, 9, 0)})
    recipe = make_recipe(sd_folder, teacher_folder)
    whole = make_request(recipe, tmp_path / "whole")
    generate.run(whole, Reporter(io.StringIO()))

    broken = make_request(recipe, tmp_path / "broken")
    sample, batches = Sampler.sample, []
    report = Reporter(io.StringIO())

    def stopping(self: Sampler, texts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        batches.append(list(seeds))
        report.stop_requested = len(batches) == 2
        return sample(self, texts, seeds)

    monkeypatch.setattr(Sampler, "sample", stopping)
    with pytest.raises(Interrupted):
        generate.run(broken, report)
    assert len(batches) == 2
    with (broken.out / "images.tar").open("ab") as file:
        file.write(b"a batch that was being written when the process was killed")
    generate.run(broken, Reporter(io.StringIO()))
    assert len(batches) == 5, "16 rows and 2 tries more in batches of 4, two of which were done before"
    assert len({seed for batch in batches for seed in batch}) == 18, "no image is sampled twice"
    assert file_bytes(broken.out) == file_bytes(whole.out)


@pytest.mark.usefixtures("preloaded_stages")
def test_sigterm_stops_a_real_child_and_a_second_one_goes_on(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(sd_folder, teacher_folder, images_per_class=32, shard_size=96)
    request = make_request(recipe, tmp_path)
    order = tmp_path / "request.json"
    request.write(order)

    child = StageProcess(order)
    before = json.loads(line_of(child))["done"]
    child.stop(WAIT_SECONDS)
    child.close()
    assert child.exit_status() == INTERRUPTED
    assert 0 < before < 96
    assert not (request.out / "manifest.json").exists()

    child = StageProcess(order)
    lines = [json.loads(line_of(child))]
    while (line := child.line(WAIT_SECONDS)) is not None:
        lines.append(json.loads(line))
    child.close()
    assert child.exit_status() == 0, child.stderr_tail
    assert lines[0]["done"] > before, "the first child's images were kept"
    assert lines[-1]["event"] == "done"
    assert lines[-1]["summary"]["images"] == 96
    manifest = json.loads((request.out / "manifest.json").read_text())
    assert {Path(item["name"]).parts[0] for item in manifest["files"]} == set(OUTPUTS)
    features = np.load(request.out / "features.npy", mmap_mode="r")
    assert features.dtype == np.float16 and isinstance(features, np.memmap)
    assert is_whole(request.out)
    for name in ("features.npy", "pixels.npy"):
        content = (request.out / name).read_bytes()
        for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
            (request.out / name).write_bytes(damaged)
            assert not is_whole(request.out)
        (request.out / name).write_bytes(content)
    assert is_whole(request.out)


def test_a_full_disk_is_found_before_the_work(
    sd_folder: Path, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        generate.run(make_request(make_recipe(sd_folder, teacher_folder), tmp_path), Reporter(io.StringIO()))
    assert caught.value.errno == 28
