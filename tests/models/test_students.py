"""Students: what is built loads in plain open_clip; what cannot be built is explained; the catalogue's costs hold."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from distillation.catalogue import FULL_STUDENTS, SMALL_STUDENTS, StudentRow
from distillation.plan import STARTER
from models.clip_directory import save_clip_directory
from models.errors import ModelError
from models.measure import measure
from models.students import build_student, count_macs, count_params, student_config
from models.teachers import load_teacher


@pytest.mark.parametrize(
    ("architecture", "projection", "width"),
    [("test_resnet", "linear", "narrow"), ("lcnet_035", "", "narrow"), ("test_resnet", "mlp", "wide")],
)
def test_an_exported_student_loads_in_plain_open_clip(
    architecture: str, projection: str, width: str, teacher_folder: Path, tmp_path: Path
) -> None:
    teacher = load_teacher(str(teacher_folder if width == "narrow" else STARTER / "teacher"))
    config = student_config(architecture, 64, teacher.model_cfg)
    assert config["vision_cfg"]["timm_proj"] == projection
    student = build_student(config)
    whole = open_clip.CustomTextCLIP(**{k: v for k, v in config.items() if k != "custom_text"})
    whole.visual.load_state_dict(student.state_dict())
    whole.text.load_state_dict(teacher.text_tower.state_dict())
    save_clip_directory(
        whole,
        tmp_path,
        model_cfg=config,
        preprocess_cfg=teacher.preprocess_cfg,
        tokenizer_folder=teacher.tokenizer_folder,
    )
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().encode_image(pixels), student.eval()(pixels))
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a cat"])
        torch.testing.assert_close(loaded.encode_text(tokens, normalize=True), teacher.encode_text(["a cat"]))


def config(architecture: str, size: int = 64) -> dict[str, object]:
    return student_config(architecture, size, {"embed_dim": 48})


def test_an_unknown_architecture_gets_suggestions() -> None:
    with pytest.raises(ModelError) as caught:
        config("lcnet_o35")
    assert caught.value.code == "bad_architecture" and "lcnet_035" in caught.value.hint


def test_an_architecture_of_another_size_is_explained() -> None:
    with pytest.raises(ModelError, match="64 pixels") as caught:
        build_student(config("vit_tiny_patch16_224"))
    assert caught.value.code == "bad_architecture" and "image_size" in caught.value.hint
    assert count_params(build_student(config("vit_tiny_patch16_224", 224))) > 5_000_000


def test_counts() -> None:
    """A first convolution and a projection by hand: 3x3x3x16 weights at 32x32 positions."""
    student = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    assert count_params(student) == 3 * 3 * 3 * 16 + 16
    assert count_macs(student, 64) == 3 * 3 * 3 * 16 * 32 * 32


@pytest.mark.parametrize("row", [*SMALL_STUDENTS, FULL_STUDENTS[0]], ids=lambda row: f"{row.architecture}")
def test_the_catalogues_costs_are_measured_ones(row: object) -> None:
    assert measure(row.architecture, row.image_size) == (row.params, row.features, row.bias, row.macs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", SMALL_STUDENTS, ids=lambda row: f"{row.architecture}@{row.image_size}")
@pytest.mark.parametrize("embed_dim", [64, 512])
def test_the_catalogue_counts_the_projection_that_is_built(row: StudentRow, embed_dim: int) -> None:
    student = build_student(student_config(row.architecture, row.image_size, {"embed_dim": embed_dim}))
    counted = (count_params(student), count_macs(student, row.image_size))
    assert (row.resolve(embed_dim).params, row.resolve(embed_dim).macs) == counted


def test_a_narrow_backbone_reaches_all_dimensions_of_the_embedding() -> None:
    """Of 96 features a linear projection would span 96 dimensions."""
    torch.manual_seed(0)
    student = build_student(student_config("test_resnet", 32, {"embed_dim": 128})).double()
    features = student.head(torch.randn(512, student.trunk.num_features, dtype=torch.float64))
    assert torch.linalg.matrix_rank(features) == 128


def test_the_count_of_a_clip_tower_has_its_attention(vit_teacher_folder: Path) -> None:
    tower = open_clip.create_model(f"local-dir:{vit_teacher_folder}").visual
    tokens, width, layers = (64 // 32) ** 2 + 1, 64, 2
    embedding = (tokens - 1) * 3 * 32 * 32 * width
    attention = tokens * 4 * width * width + 2 * tokens * tokens * width
    assert count_macs(tower, 64) == embedding + layers * (attention + tokens * 8 * width * width) + width * 48
    assert torch.backends.mha.get_fastpath_enabled()
