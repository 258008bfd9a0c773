"""The teacher: what it computes, that it is frozen, and what is said when it cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file, save_file

from distillation.embedding import Embedder
from distillation.export.open_clip_directory import write_open_clip_directory
from distillation.preprocess import student_preprocess
from distillation.recipe import Training
from distillation.views import apply_views, whole_views
from models.errors import ModelError
from models.students import build_student, student_config
from models.teachers import _builtin_config, load_teacher

COSINE = 0.999


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_features_are_open_clips_own(teacher_folder: Path) -> None:
    teacher = load_teacher(str(teacher_folder))
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{teacher_folder}")
    plain.eval()
    with torch.no_grad():
        expected = plain.encode_image(images(), normalize=True)
        texts = plain.encode_text(open_clip.get_tokenizer(f"local-dir:{teacher_folder}")(["a cat"]), normalize=True)
    features = teacher.encode_image(images())
    assert features.dtype == torch.float32 and features.shape == (4, 48)
    assert (features * expected).sum(-1).min() >= COSINE
    torch.testing.assert_close(teacher.encode_text(["a cat"]), texts)
    assert teacher.logit_scale == pytest.approx(plain.logit_scale.exp().item())


def test_a_vision_transformers_views_have_the_fp32_features(vit_teacher_folder: Path) -> None:
    """Through the product's whole path, whatever precision it chose on this machine."""
    teacher = load_teacher(str(vit_teacher_folder))
    plain = open_clip.create_model(f"local-dir:{vit_teacher_folder}").eval()
    pixels = torch.randint(0, 256, (4, 73, 73, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embedder = Embedder(teacher, [["a photo"]], on_halved=lambda _size: None)
    views, features = embedder.views(pixels, embedder.whole(pixels), range(4), Training(views=3))
    mean, std = torch.tensor(teacher.mean), torch.tensor(teacher.std)
    seen = apply_views(pixels.repeat_interleave(3, 0), views.flatten(0, 1), 64, mean, std)
    with torch.no_grad():
        expected = plain.encode_image(seen, normalize=True)
    assert features.shape == (4, 3, 48)
    assert (features.flatten(0, 1) * expected).sum(-1).min() >= COSINE
    stored = torch.nn.functional.normalize(features.half().float(), dim=-1)
    assert (stored.flatten(0, 1) * expected).sum(-1).min() >= COSINE, "as they are stored"
    whole = embedder.whole(pixels)
    views, features = embedder.views(pixels, whole, range(4), Training(views=1))
    assert torch.equal(views, whole_views(4)[:, None]) and torch.equal(features, whole[:, None])


def test_facts(teacher_folder: Path) -> None:
    teacher = load_teacher(f"local-dir:{teacher_folder}")
    assert (teacher.image_size, teacher.embed_dim, teacher.interpolation) == (64, 48, "bicubic")
    assert teacher.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert teacher.params_total == sum(p.numel() for p in teacher.model.parameters())
    assert 0 < teacher.params_image_tower < teacher.params_total
    assert teacher.tokenizer_folder == teacher_folder


def test_it_is_frozen(teacher_folder: Path) -> None:
    teacher = load_teacher(str(teacher_folder))
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    assert not any(module.training for module in teacher.model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    pixels = images().requires_grad_()
    assert not teacher.encode_image(pixels).requires_grad
    student = torch.nn.Linear(48, 48)
    (student(teacher.encode_image(images())) - 1).square().mean().backward()
    for name, tensor in teacher.model.state_dict().items():  # batch-norm statistics included
        assert torch.equal(tensor, before[name]), name


def test_zero_shot_head_averages_prompts(teacher_folder: Path) -> None:
    teacher = load_teacher(str(teacher_folder))
    head = teacher.zero_shot_head([["a cat", "a photo of a cat"], ["a dog"]])
    assert head.shape == (48, 2)
    torch.testing.assert_close(head.norm(dim=0), torch.ones(2))
    cat = teacher.encode_text(["a cat", "a photo of a cat"]).mean(0)
    torch.testing.assert_close(head[:, 0], cat / cat.norm())
    torch.testing.assert_close(head[:, 1], teacher.encode_text(["a dog"])[0])


def tiny_name(folder: Path) -> str:
    """The name of a small model made known to open_clip."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    }
    (folder / "tiny-for-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-for-test.json")
    return "tiny-for-test"


@pytest.mark.usefixtures("own_open_clip_models")
def test_built_in_name_with_a_safetensors_file(tmp_path: Path) -> None:
    """Another text tower layout, `CLIP`, comes out as the same modules; the configuration is the built-in one."""
    name = tiny_name(tmp_path)
    plain = open_clip.create_model(name)
    save_file(plain.state_dict(), tmp_path / "weights.safetensors")
    teacher = load_teacher(name, str(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(["a cat"])
        torch.testing.assert_close(teacher.encode_text(["a cat"]), plain.eval().encode_text(tokens, normalize=True))
    assert teacher.tokenizer_folder is None and teacher.model_cfg["custom_text"] is True


@pytest.mark.usefixtures("own_open_clip_models")
def test_weights_trained_with_quick_gelu_are_read_and_exported_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tiny_name(tmp_path)
    exact = open_clip.create_model(name, quick_gelu=True).eval()
    save_file(exact.state_dict(), tmp_path / "weights.safetensors")
    tags = {"quick": {"file": str(tmp_path / "weights.safetensors"), "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    teacher = load_teacher(name, "quick")
    student_cfg = student_config("test_resnet", 32, teacher.model_cfg)
    write_open_clip_directory(
        tmp_path / "encoder",
        build_student(student_cfg),
        teacher,
        model_cfg=student_cfg,
        preprocess_cfg=student_preprocess(teacher.preprocess_cfg, 32),
    )
    exported = open_clip.create_model(f"local-dir:{tmp_path / 'encoder'}").eval()
    tokens = open_clip.get_tokenizer(name)(["a cat"])
    with torch.no_grad():
        expected = exact.encode_text(tokens, normalize=True)
        torch.testing.assert_close(teacher.encode_text(["a cat"]), expected)
        torch.testing.assert_close(exported.encode_text(tokens, normalize=True), expected)
    assert any(isinstance(layer, QuickGELU) for layer in teacher.model.get_submodule("visual").modules())


def test_every_tag_of_open_clip_has_the_activation_it_was_trained_with() -> None:
    corrected = 0
    for model, tag in open_clip.list_pretrained():
        plain, weights = open_clip.get_model_config(model), open_clip.get_pretrained_cfg(model, tag)
        trained = weights.get("quick_gelu", plain.get("quick_gelu", False))
        assert _builtin_config(model, tag).get("quick_gelu", False) == trained, f"{model} {tag}"
        corrected += trained != plain.get("quick_gelu", False)
    assert corrected >= 27


@pytest.mark.parametrize(
    ("model", "pretrained", "code", "field", "words"),
    [
        ("ViT-B-33", "x", "weights_missing", "teacher.model", "ViT-B-32"),
        ("ViT-B-32", "datacomp_xl", "weights_missing", "teacher.pretrained", "datacomp_xl_s13b_b90k"),
        ("/nowhere/teacher", None, "weights_missing", "teacher.model", "open_clip_config.json"),
    ],
)
def test_what_is_not_there(model: str, pretrained: str | None, code: str, field: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_teacher(model, pretrained)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert words in caught.value.message + caught.value.hint


def test_tags_are_compared_as_open_clip_does() -> None:
    assert _builtin_config("ViT-B-32", "DataComp-XL_s13b-b90k")["embed_dim"] == 512


def test_pickled_weights_are_refused(teacher_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(teacher_folder, folder)
    weights = folder / "open_clip_model.safetensors"
    torch.save(load_file(weights), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_teacher(str(folder))


def test_weights_of_another_shape_are_an_error(teacher_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mismatched"
    shutil.copytree(teacher_folder, folder)
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"embed_dim": 48', '"embed_dim": 40'))
    with pytest.raises(ModelError) as caught:
        load_teacher(str(folder))
    assert caught.value.code == "weights_missing"


@pytest.mark.parametrize("content", [b"[]", b"\xff", b'{"embed_dim": 512}', b"{"])
def test_a_broken_configuration_is_said_to_be_one(teacher_folder: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(teacher_folder, folder)
    (folder / "open_clip_config.json").write_bytes(content)
    with pytest.raises(ModelError, match="not a valid open_clip configuration"):
        load_teacher(str(folder))


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load_teacher("hf-hub:nobody/nothing", revision="0" * 40)
    assert caught.value.code == "hub_unreachable"
