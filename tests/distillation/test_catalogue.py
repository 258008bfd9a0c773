"""From a recipe's student to an architecture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distillation.catalogue import FULL_STUDENTS, SMALL_STUDENTS, resolve_student
from distillation.known_models import TEACHERS, teacher_shape
from distillation.recipe import Student


def resolve(size: int = 224, width: int = 512, **wanted: object) -> object:
    return resolve_student(Student.model_validate(wanted), size, width)


@pytest.mark.parametrize("tier", [SMALL_STUDENTS, FULL_STUDENTS])
def test_every_tier_has_all_presets_and_larger_presets_cost_more(tier: tuple[object, ...]) -> None:
    presets = [row for row in tier if row.preset]  # type: ignore[attr-defined]
    assert [row.preset for row in presets] == ["xs", "s", "m", "l"]  # type: ignore[attr-defined]
    costs = [row.resolve(256)[2:4] for row in presets]  # type: ignore[attr-defined]
    assert costs == sorted(costs)
    assert len({(row.architecture, row.image_size) for row in tier}) == len(tier)  # type: ignore[attr-defined]


def test_the_full_tier_goes_from_weak_to_strong() -> None:
    scores = [row.top1 or 0 for row in FULL_STUDENTS]
    assert scores == sorted(scores) and min(scores) > 0


def test_the_default_is_s_of_the_teachers_tier() -> None:
    assert resolve().architecture == "hgnetv2_b0"  # type: ignore[attr-defined]
    small = resolve(size=96, width=256)
    assert small == ("test_resnet", 96, 372_688 + 96 * 256, 36_882_432 + 96 * 256, "s")


def test_a_budget_takes_the_strongest_that_fits() -> None:
    assert resolve(max_params=7_030_000).architecture == "edgenext_small"  # type: ignore[attr-defined]
    chosen = resolve(max_params=7_030_000, max_macs=400_000_000)
    assert chosen.architecture == "efficientnet_b0"  # type: ignore[attr-defined]
    assert chosen.params <= 7_030_000 and chosen.macs <= 400_000_000  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "budget", [{"max_params": 1000}, {"max_macs": 1000}, {"max_params": 4_000_000, "max_macs": 10**8}]
)
def test_an_impossible_budget_names_the_smallest(budget: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="mobilenetv4_conv_small"):
        resolve(**budget)


def test_another_image_size_scales_the_cost() -> None:
    whole, half = resolve(size=224), resolve(size=224, image_size=112)
    assert half.image_size == 112 and half.macs == round(whole.macs / 4)  # type: ignore[attr-defined]
    assert half.params == whole.params  # type: ignore[attr-defined]


def test_by_name() -> None:
    assert resolve(architecture="repvit_m1_0").preset == "m"  # type: ignore[attr-defined]
    assert resolve(size=96, architecture="resnet18") == ("resnet18", 96, 0, 0, None)
    with pytest.raises(ValueError, match="timm"):
        resolve(architecture="../../etc/passwd")


def test_teacher_shape(tmp_path: Path) -> None:
    assert teacher_shape("ViT-L-14", "datacomp_xl_s13b_b90k", None) == (224, 768)
    assert teacher_shape("starter", None, None) == (TEACHERS[0].image_size, TEACHERS[0].embed_dim)
    described = {"model_cfg": {"embed_dim": 640, "vision_cfg": {"image_size": 288}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    assert teacher_shape("local-dir:x", None, tmp_path) == (288, 640)


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, distillation.catalogue, distillation.known_models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
