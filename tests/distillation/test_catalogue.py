"""From a recipe's student to an architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distillation.catalogue import FULL_STUDENTS, SMALL_STUDENTS, Resolved, resolve_student
from distillation.known_models import TEACHERS
from distillation.plan import STARTER
from distillation.recipe import Student
from distillation.teachers import TYPICAL, TeacherShape, teacher_shape
from models.teachers import load_teacher

SWEEP = (70, 80, 90, 92, 95, 97)


def resolve(size: int = 224, width: int = 512, tower: int = 87_849_216, **wanted: object) -> Resolved:
    return resolve_student(Student.model_validate(wanted), TeacherShape(size, width, tower))


@pytest.mark.parametrize("tier", [SMALL_STUDENTS, FULL_STUDENTS])
def test_every_tier_has_all_presets_and_larger_presets_cost_more(tier: tuple[object, ...]) -> None:
    presets = [row for row in tier if row.preset]  # type: ignore[attr-defined]
    assert [row.preset for row in presets] == ["xs", "s", "m", "l"]  # type: ignore[attr-defined]
    costs = [row.resolve(256)[2:4] for row in presets]
    assert costs == sorted(costs)
    assert len({(row.architecture, row.image_size) for row in tier}) == len(tier)  # type: ignore[attr-defined]


def test_the_full_tier_goes_from_weak_to_strong() -> None:
    scores = [row.top1 or 0 for row in FULL_STUDENTS]
    assert scores == sorted(scores) and min(scores) > 0


def test_the_default_is_s_of_the_teachers_tier() -> None:
    assert resolve().architecture == "hgnetv2_b0"
    small = resolve(size=96, width=256)
    hidden = 96 * 512 + 512 * 256  # its 96 features are narrower than the embedding
    assert small == ("test_resnet", 96, 372_688 + hidden + 512, 36_882_432 + hidden, "s")


def test_a_budget_takes_the_strongest_that_fits() -> None:
    assert resolve(max_params=7_030_000).architecture == "edgenext_small"
    chosen = resolve(max_params=7_030_000, max_macs=400_000_000)
    assert chosen.architecture == "efficientnet_b0"
    assert chosen.params <= 7_030_000 and chosen.macs <= 400_000_000


@pytest.mark.parametrize(
    "budget", [{"max_params": 1000}, {"max_macs": 1000}, {"max_params": 4_000_000, "max_macs": 10**8}]
)
def test_an_impossible_budget_names_the_smallest(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="mobilenetv4_conv_small"):
        resolve(**budget)


def test_another_image_size_scales_the_cost() -> None:
    whole, half = resolve(size=224), resolve(size=224, image_size=112)
    assert half.image_size == 112 and half.macs == round(whole.macs / 4)
    assert half.params == whole.params


def test_by_name() -> None:
    assert resolve(architecture="edgenext_small").preset == "m"
    assert resolve(size=96, architecture="resnet18") == ("resnet18", 96, 0, 0, None)
    with pytest.raises(ValueError, match="timm"):
        resolve(architecture="../../etc/passwd")


@pytest.mark.parametrize("tower", [8_000_000, 10_000_000, 11_326_816, 12_000_000])
def test_a_sweep_against_a_small_teacher_finds_a_student_for_every_percentage(tower: int) -> None:
    chosen = [resolve(64, 256, tower, fewer_params=percent) for percent in SWEEP]
    savings = [100 * (1 - student.params / tower) for student in chosen]
    assert all(saving >= percent for saving, percent in zip(savings, SWEEP, strict=True))
    assert len(set(chosen)) == len(SWEEP)
    assert savings == sorted(savings)


def test_fewer_params_is_a_share_of_the_image_tower() -> None:
    row = next(row for row in FULL_STUDENTS if row.architecture == "edgenext_small")
    params = row.resolve(512).params
    assert resolve(tower=10 * params, fewer_params=90) == row.resolve(512)  # exactly as many as are allowed
    assert resolve(tower=10 * params - 1, fewer_params=90).params < params
    assert resolve(fewer_params=92).architecture == "edgenext_small"
    assert resolve(fewer_params=92, max_params=4_000_000, max_macs=400_000_000).architecture == "mobilenetv4_conv_small"
    with pytest.raises(ValueError, match=r"99 % fewer than the 87,849,216 of the image tower.*mobilenetv4_conv_small"):
        resolve(fewer_params=99)
    with pytest.raises(ValueError, match="only one of"):
        Student.model_validate({"fewer_params": 92, "size": "s"})


def test_teacher_shape(tmp_path: Path, teacher_folder: Path) -> None:
    assert teacher_shape("ViT-L-14", None) == (224, 768, 303_966_208, True)
    assert teacher_shape("hf-hub:org/name", None) == TYPICAL and not TYPICAL.known
    assert TYPICAL[:3] == teacher_shape("ViT-B-32", None)[:3]
    for broken in (b"[]", b"\xff", b'{"embed_dim": 512}', b'{"model_cfg": {"vision_cfg": []}}'):
        (tmp_path / "open_clip_config.json").write_bytes(broken)
        assert teacher_shape(f"local-dir:{tmp_path}", tmp_path) == TYPICAL
    assert teacher_shape("starter", None)[:2] == (TEACHERS[0].image_size, TEACHERS[0].embed_dim)
    described = {"model_cfg": {"embed_dim": 640, "vision_cfg": {"image_size": 288}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    assert teacher_shape("local-dir:x", tmp_path) == (288, 640, TYPICAL.params_image_tower, False)
    for broken in (b"", b"\xff" * 100, b"\x04" + bytes(7) + b"nope"):
        (tmp_path / "open_clip_model.safetensors").write_bytes(broken)
        assert not teacher_shape("local-dir:x", tmp_path).known
    for folder in (teacher_folder, STARTER / "teacher"):
        loaded = load_teacher(str(folder))
        counted = (loaded.image_size, loaded.embed_dim, loaded.params_image_tower, True)
        assert teacher_shape("local-dir:x", folder) == counted, "the file's header says what the loaded model has"


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, distillation.catalogue, distillation.known_models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
