"""The table on real photos, whole, on photos made here: few of them, few steps, two arms and both bounds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.photos import __main__ as photos
from benchmarks.photos.arms import LOSSES, RATE, levers
from benchmarks.photos.domains import LABELS, OTHERS, TUNING, read_domains
from benchmarks.photos.generator import own_generator
from benchmarks.photos.results import page as photos_page
from benchmarks.stages_here import merged
from distillation.datasets import read_info
from distillation.generator_recipe import GeneratorRecipe, classes_of
from distillation.recipe import Recipe, Training
from distillation.taught_classes import taught_classes
from starter.classes import DOMAINS, GENERATED
from starter.students import teacher_name

ARMS = ["l2", "contrastive", "half photos", "real photos", "base student"]


def write_data(folder: Path, *, every: int = 2) -> None:
    """Files like Tiny ImageNet's: class names, training and validation photos of every second class."""
    taught = dict(zip(GENERATED, taught_classes("starter") or [], strict=True))
    lines = ["label\twordnet_id\tnames"]
    lines += [f"{label}\tn{label:08d}\t{', '.join(taught.get(label, [f'thing {label}']))}" for label in range(200)]
    (folder / "classes.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    for split, each in (("train", 4), ("validation", 2)):
        labels = [label for label in range(0, 200, every) for _ in range(each)]
        images = []
        for _ in labels:
            content = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(content, "PNG")
            images.append({"bytes": content.getvalue(), "path": None})
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}-0.parquet")


def test_the_table_is_made_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    monkeypatch.setattr("benchmarks.photos.corruptions.CORRUPTIONS", ("brightness", "pixelate"))
    out = tmp_path / "results"

    def run(arms: list[str], **more: int) -> list[dict[str, object]]:
        options = {**more, "seeds": 1, "steps": 2, "base_steps": 2, "images_per_class": 10, "fewer_params": 96.0}
        photos.main(tmp_path, ["food"], arms, False, generator_minutes=1, **options, work=tmp_path / "work", out=out)  # type: ignore[arg-type]
        results: list[dict[str, object]] = json.loads((out / "photos.json").read_text(encoding="utf-8"))
        return results

    assert [one["arm"] for one in run(ARMS[:2])] == ARMS[:2]
    students = tmp_path / "work" / teacher_name() / "96-64px-2-muon-10-2" / "food"
    changed = (students / "distil-l2-0" / "student.safetensors").stat().st_mtime_ns
    assert run(["base student"], image_size=96)[-1]["image_size"] == 96
    base = tmp_path / "work" / teacher_name() / "base-96-96px-2-muon" / "agnostic-things-8-views" / "student.json"
    assert json.loads(base.read_text(encoding="utf-8"))["init"] == "agnostic", "it goes on from 64 pixels"
    results = {str(one["arm"]): one for one in run(ARMS) if one["image_size"] == 64}
    assert list(results) == ARMS
    assert (students / "distil-l2-0" / "student.safetensors").stat().st_mtime_ns == changed, "nothing is made twice"
    weights = {arm: results[arm]["student_synthetic"] for arm in ARMS}
    assert all(0 <= float(str(value)) <= 1 for value in weights.values())
    assert {one["photos"] for one in results.values()} == {16}, "two of each of the eight classes with photos"
    assert {one["corruptions"] for one in results.values()} == {6}
    page = (out / "photos.md").read_text(encoding="utf-8")
    assert (
        all(f"| {arm} |" in page for arm in ARMS if arm != "half photos") and "## Food: 16 classes, 16 photos" in page
    )
    for plot in ("photos-gap.svg", "photos-sizes.svg"):
        assert (out / plot).read_text(encoding="utf-8").startswith("<?xml")
    assert "| corrupted |" in page and "## Levers" not in page
    plain = {key: value for key, value in results["l2"].items() if "corrupted" not in key}
    levers_page = photos_page([{**plain, "domain": TUNING, "arm": arm} for arm in ("l2", "no EMA")])
    assert "## Levers" in levers_page and "| no EMA |" in levers_page and "| corrupted |" not in levers_page


def test_domains_and_arms_are_the_papers(tmp_path: Path) -> None:
    write_data(tmp_path)
    animals, food = read_domains(tmp_path, ["animals", "food"])
    assert len(animals.labels) + animals.missing == 59 and (len(food.labels), food.missing) == (16, 0)
    assert not animals.own_generator and not food.own_generator
    for losses in LOSSES.values():
        Training.model_validate({"losses": losses})
    with pytest.raises(ValueError, match="there are animals, food, vehicles, places, tuning"):
        read_domains(tmp_path, ["cars"])


def test_a_domain_that_the_starter_does_not_draw_gets_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training is the product's, tested elsewhere; here, that it learns these classes from these photos."""
    write_data(tmp_path, every=1)
    [places] = read_domains(tmp_path, ["places"])
    assert places.own_generator and (places.labels, places.missing) == (DOMAINS["places"], 0)
    asked: list[GeneratorRecipe] = []
    monkeypatch.setattr("benchmarks.photos.generator.train_generator", lambda recipe, *_: asked.append(recipe))
    own_generator(tmp_path, places, 5, tmp_path / "work")
    domain, mapping, warnings = classes_of(asked[0], read_info(Path(asked[0].dataset)).classes)
    assert domain.class_names == [names[0] for names in places.classes] and not warnings
    assert dict(sorted(mapping.items())) == {label: index for index, label in enumerate(places.labels)}
    assert set(np.load(Path(asked[0].dataset) / "labels.npy")) == set(places.labels)


def test_no_base_student_sees_a_class_that_is_measured() -> None:
    measured = {label for labels in LABELS.values() for label in labels}
    assert len(measured) == sum(map(len, DOMAINS.values())) == 113
    assert measured.isdisjoint(OTHERS) and len(measured | set(OTHERS)) == 200


def test_nothing_is_tuned_on_photos_that_are_measured(tmp_path: Path) -> None:
    write_data(tmp_path)
    splits = {domain.name: domain.split for domain in read_domains(tmp_path, list(LABELS))}
    assert splits.pop(TUNING) == "train" and set(splits.values()) == {"validation"}


def test_a_lever_changes_one_thing_and_is_a_recipe() -> None:
    base = {
        "domain": {"name": "d", "classes": ["a", "b"]},
        "data": {"prompts": {"dimensions": {"light": ["dim"]}}},
        "training": {"steps": 10, "lr": RATE},
    }
    plain = Recipe.model_validate(base)
    for name, changes in levers(100, 10).items():
        changed = Recipe.model_validate(merged(base, changes))
        parts = [part for part in Recipe.model_fields if getattr(plain, part) != getattr(changed, part)]
        assert len(parts) == 1, name
