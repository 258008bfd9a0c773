"""The export stage: every file loaded by its own library and compared with the student."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from timm.models.hgnet import LearnableAffineBlock

from distillation.export.card import stated_licence, write_card
from distillation.export.int8 import gate_pixels, judge, quantise
from distillation.export.onnx_files import check_onnx, open_session, run_session, write_image_encoder
from distillation.image_sets import ImageSet
from distillation.metrics import feature_cosine
from distillation.preprocess import preprocess, student_preprocess
from distillation.protocol import Interrupted, Reporter, Request, StageError
from distillation.recipe import load_recipe
from distillation.stages import evaluate, export
from distillation.student_folder import read_student
from models.students import build_student, student_config
from tests.distillation.stage_folders import NAMES, coloured_images, recipe, run_stage, stage_inputs

ALL = {"onnx": True, "int8": True, "torchscript": True}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> tuple[Any, dict[str, list[Path]]]:
    """A recipe with everything switched on, and the folders of the stages before export."""
    wanted = recipe(str(teacher_folder), exports=ALL, evaluation={"latency": True})
    folder = tmp_path_factory.mktemp("stages")
    inputs = stage_inputs(folder, wanted)
    run_stage(evaluate, "evaluate", wanted, inputs, folder / "evaluate")
    return wanted, {**inputs, "evaluate": [folder / "evaluate"]}


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, stages: tuple[Any, dict[str, list[Path]]]
) -> tuple[Path, dict[str, Any]]:
    """The encoder's folder and the report, made once. The gate's accuracy is left open: that of random weights."""
    out = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distillation.export.int8.MAX_ACC1_DROP", 1.0)
        run_stage(export, "export", *stages, out)
    return out / "encoder", json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def probe(stages: tuple[Any, dict[str, list[Path]]]) -> tuple[torch.Tensor, np.ndarray]:
    """Random pixels and the student's embeddings of them."""
    student, described = read_student(stages[1]["distil"][0])
    pixels = torch.randn(5, 3, described["image_size"], described["image_size"])
    with torch.inference_mode():
        return pixels, torch.nn.functional.normalize(student(pixels), dim=-1).numpy()


def test_branches_for_training_alone_are_not_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_student(student_config("repvit_m0_9", 64, {"embed_dim": 32})).eval()
    write_image_encoder(tmp_path / "encoder.onnx", student, 64)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        check_onnx(tmp_path / "encoder.onnx", pixels.numpy(), torch.nn.functional.normalize(student(pixels)).numpy())
    exported = sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "encoder.onnx").graph.node)
    trained = sum(isinstance(layer, torch.nn.Conv2d) for layer in student.modules())
    branched = sum(type(module).__name__ == "RepVggDw" for module in student.modules())
    assert exported == trained - branched < trained


def test_bounds_above_zero_survive_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = build_student(student_config("hgnetv2_b0", 64, {"embed_dim": 32})).eval()
    for layer in student.modules():
        if isinstance(layer, LearnableAffineBlock):
            layer.bias.data.fill_(0.3)
    pixels = torch.randn(8, 3, 64, 64)
    write_image_encoder(tmp_path / "encoder.onnx", student, 64)
    exported = [node.op_type for node in onnx.load(tmp_path / "encoder.onnx").graph.node]
    trained = sum(isinstance(layer, LearnableAffineBlock) for layer in student.modules())
    assert exported.count("Mul") == 1 < trained, "all but the last, after the pooling, are folded"
    quantise(tmp_path / "encoder.onnx", tmp_path / "int8.onnx", [pixels.numpy()])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(student(pixels)).numpy()
    assert feature_cosine(run_session(open_session(tmp_path / "int8.onnx"), pixels.numpy()), expected) > 0.995


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_biases_give_back_what_rounded_weights_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    torch.manual_seed(groups)
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.AdaptiveAvgPool2d(1)
    student = torch.nn.Sequential(conv(3, 16, 1), relu(), conv(16, 16, 1, groups=groups), relu(), pool)
    student.append(torch.nn.Flatten()).append(torch.nn.Linear(16, 8)).eval()
    pixels = torch.randn(32, 3, 8, 8).numpy()
    write_image_encoder(tmp_path / "encoder.onnx", student, 8)
    expected = run_session(open_session(tmp_path / "encoder.onnx"), pixels)

    def shift() -> float:
        quantise(tmp_path / "encoder.onnx", tmp_path / "int8.onnx", [pixels[:16], pixels[16:]])
        rounded = run_session(open_session(tmp_path / "int8.onnx"), pixels)
        return float(np.linalg.norm((rounded - expected).mean(0)))

    corrected = shift()
    monkeypatch.setattr("distillation.export.int8.correct_biases", lambda *_: None)
    assert corrected < 0.5 * shift()


def test_biases_that_are_no_biases_are_left_alone(tmp_path: Path) -> None:
    """An untrained EdgeNeXt's zeros are one array for convolutions and additions: the quantiser has them as uint8."""
    torch.manual_seed(0)
    student = build_student(student_config("edgenext_xx_small", 64, {"embed_dim": 32})).eval()
    pixels = torch.randn(4, 3, 64, 64).numpy()
    write_image_encoder(tmp_path / "encoder.onnx", student, 64)
    quantise(tmp_path / "encoder.onnx", tmp_path / "int8.onnx", [pixels])
    rounded, exact = (run_session(open_session(tmp_path / f"{name}.onnx"), pixels) for name in ("int8", "encoder"))
    assert feature_cosine(rounded, exact) > 0.99


def test_open_clip_loads_the_folder_and_gives_the_students_embedding(
    exported: tuple[Path, dict[str, Any]], probe: tuple[torch.Tensor, np.ndarray], teacher_folder: Path
) -> None:
    folder, report = exported
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", require_pretrained=True)
    teacher = open_clip.create_model(f"local-dir:{teacher_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of a red thing"])
    with torch.inference_mode():
        image = model.eval().encode_image(probe[0], normalize=True).numpy()
        text = (model.encode_text(tokens) - teacher.encode_text(tokens)).abs().max().item()
    assert np.abs(image - probe[1]).max() < 1e-6
    assert text < 1e-6 and model.logit_scale.item() == teacher.logit_scale.item()
    assert report["parity"]["open_clip"] < 1e-6
    assert transform.transforms[0].size == 48


def test_onnxruntime_gives_the_students_embedding_and_probabilities(
    exported: tuple[Path, dict[str, Any]], probe: tuple[torch.Tensor, np.ndarray], teacher_folder: Path
) -> None:
    folder, report = exported
    pixels, embeddings = probe
    teacher = open_clip.create_model(f"local-dir:{teacher_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{teacher_folder}")([f"a photo of a {name}" for name in NAMES])
    with torch.inference_mode():
        head = teacher.encode_text(tokens, normalize=True).T
        expected = (teacher.logit_scale.exp() * torch.from_numpy(embeddings) @ head).softmax(-1).numpy()
    for name, output, wanted in (
        ("image_encoder.onnx", "embedding", embeddings),
        ("classifier.onnx", "probabilities", expected),
    ):
        session = onnxruntime.InferenceSession(folder / name)
        assert [item.name for item in session.get_inputs()] == ["image"]
        assert [item.name for item in session.get_outputs()] == [output]
        for count in (1, 5):
            found = session.run([output], {"image": pixels[:count].numpy()})[0]
            assert np.abs(found - wanted[:count]).max() < 1e-5
        assert report["parity"][name] < 1e-5


def test_torchscript_gives_the_students_embedding(
    exported: tuple[Path, dict[str, Any]], probe: tuple[torch.Tensor, np.ndarray]
) -> None:
    loaded = torch.jit.load(exported[0] / "encoder.torchscript.pt")
    assert np.abs(loaded(probe[0]).detach().numpy() - probe[1]).max() < 1e-6


def test_int8_files_hold_int8_products_and_a_float_head(
    exported: tuple[Path, dict[str, Any]], probe: tuple[torch.Tensor, np.ndarray]
) -> None:
    folder, report = exported
    assert report["int8"]["kept"] and report["int8"]["cosine"] > 0.99
    graph = onnx.load(folder / "image_encoder.int8.onnx").graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 5
    whole = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    weights = [one.astype(int) for one in whole if one.ndim > 1]  # the others are zero points
    assert len(weights) > 5 and max(np.abs(one).max() for one in weights) <= 64, "sums overflow without VNNI"
    embedding = onnxruntime.InferenceSession(folder / "image_encoder.int8.onnx").run(None, {"image": probe[0].numpy()})
    assert np.abs(np.linalg.norm(embedding[0], axis=1) - 1).max() < 1e-5  # normalised in floating point
    found = onnxruntime.InferenceSession(folder / "classifier.int8.onnx").run(None, {"image": probe[0].numpy()})[0]
    assert found.shape == (5, 3) and np.abs(found.sum(1) - 1).max() < 1e-5


def test_int8_that_changes_the_student_is_removed(
    tmp_path: Path, stages: tuple[Any, dict[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillation.export.int8.MIN_COSINE", 1.01)
    monkeypatch.setattr("distillation.stages.export.measure_latency", lambda *_: [])
    _, events = run_stage(export, "export", *stages, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["int8"]["kept"] and "cosine" in report["int8"]["reason"]
    assert "int8_not_kept" in [event.get("code") for event in events]
    assert not list((tmp_path / "encoder").glob("*int8*"))


def test_a_full_disk_says_nothing_of_the_architecture(
    tmp_path: Path, stages: tuple[Any, dict[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("distillation.stages.export.quantise", fail)
    monkeypatch.setattr("distillation.stages.export.measure_latency", lambda *_: [])
    with pytest.raises(OSError, match="No space left"):
        run_stage(export, "export", *stages, tmp_path)


def test_few_held_out_images_are_judged_in_several_views() -> None:
    pixels, labels = coloured_images(0, 40)
    chosen = np.array([*range(2, 21), 0])
    held_out = ImageSet([(pixels, chosen[:-1]), (pixels, chosen[-1:])], labels[chosen].astype(np.int64))
    teacher = {"mean": [0.5] * 3, "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "squash"}
    cfg = student_preprocess(teacher, 32)
    batches = list(gate_pixels(held_out, cfg, (0.5, 1.0)))
    images, found = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (8 * 20, 3, 32, 32) and np.array_equal(found, np.tile(held_out.labels, 8))
    views = images.reshape(8, 20, 3, 32, 32)
    assert np.array_equal(views[0], np.concatenate([preprocess(part, cfg) for part in held_out.batches(100)]))
    assert len(np.unique(views[:, 7].reshape(8, -1), axis=0)) == 8, "each crop is another one"
    assert np.abs(views[1:].mean((0, 3, 4)) - views[0].mean((2, 3))).max() < 0.2, "of the same image"


def test_the_gate_asks_for_cosine_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    head = np.eye(4, dtype=np.float32)
    labels = np.arange(400) % 4
    exact = head[labels] + rng.normal(0, 0.01, (400, 4)).astype(np.float32)
    assert judge(exact, exact, head, labels).kept
    turned = np.roll(exact, 1, axis=1)
    assert not judge(exact, turned, head, labels).kept
    # Three of 400 are 0.75 points: too many even if the cosine hardly moves.
    near = np.where(labels[:, None] == np.arange(4), 0.5, 0.499).astype(np.float32)
    slipped = near.copy()
    slipped[:3] = 0.5 * np.eye(4)[(labels[:3] + 1) % 4] * 0.002 + 0.499
    verdict = judge(near, slipped, head, labels)
    assert not verdict.kept and verdict.cosine > 0.99 and verdict.acc1_drop == pytest.approx(0.0075)
    slipped[:2] = near[:2]
    assert judge(near, slipped, head, labels).kept


def test_onnx_that_differs_is_an_error(
    exported: tuple[Path, dict[str, Any]], probe: tuple[torch.Tensor, np.ndarray]
) -> None:
    with pytest.raises(StageError, match="differs from PyTorch"):
        check_onnx(exported[0] / "image_encoder.onnx", probe[0].numpy(), probe[1] + 0.002)


def test_report_lists_every_other_file_with_its_hash(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, report = exported
    assert report == json.loads((folder / "report.json").read_text())
    names = {path.name for path in folder.iterdir()} - {"report.json"}
    assert {item["name"] for item in report["files"]} == names
    assert {"README.md", "labels.json", "preprocess.json", "recipe.yaml", "tokenizer.json"} <= names
    for item in report["files"]:
        content = (folder / item["name"]).read_bytes()
        assert (item["sha256"], item["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert [(row["precision"], row["batch"]) for row in report["latency"]] == [
        ("fp32", 1), ("fp32", 32), ("int8", 1), ("int8", 32),
    ]  # fmt: skip
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in report["latency"])
    assert {"synthetic", "real", "generation", "training", "versions", "machine"} <= set(report)


def test_resolved_recipe_and_texts(exported: tuple[Path, dict[str, Any]], stages: tuple[Any, Any]) -> None:
    folder, _ = exported
    assert load_recipe(folder / "recipe.yaml") == stages[0]
    assert json.loads((folder / "labels.json").read_text()) == {
        "labels": list(NAMES),
        "prompts": [[f"a photo of a {name}"] for name in NAMES],
    }
    assert json.loads((folder / "preprocess.json").read_text())["size"] == 48


def test_a_licence_that_nobody_states_is_called_unstated(tmp_path: Path) -> None:
    assert "not stated in the recipe" in stated_licence("", str(tmp_path), "generator")


def test_card_says_what_it_is_honestly(exported: tuple[Path, dict[str, Any]], stages: tuple[Any, Any]) -> None:
    folder, report = exported
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "zero-shot-image-classification" and card.data.library_name == "open_clip"
    assert {result.dataset_name for result in card.data.eval_results} == {"held-out synthetic images"}
    text = card.text
    assert "not measured on real photos" in text and "optimistic" in text
    assert "cc-by-4.0" in text  # the recipe's word on the teacher
    assert "imagenet-research-only" in text  # the card beside the starter generator's weights
    assert f"{report['teacher']['params_image_tower']:,}" in text and f"{report['teacher']['params_total']:,}" in text
    assert "a photo of a red, at night" in text and "data 0, training 0" in text and "torch 2" in text


def test_card_and_hub_metadata_do_not_hide_what_photos_were_learnt_from(
    exported: tuple[Path, dict[str, Any]], stages: tuple[Any, Any], tmp_path: Path
) -> None:
    report, shown = exported[1], {}
    for notes in ([], ["The generator learnt from these photos."]):
        real = {**report["synthetic"], "dataset": "ds_photos", "notes": notes}
        write_card(tmp_path, stages[0], {**report, "real": real, "gap": {"teacher": 0.0, "student": 0.0}}, [])
        card = ModelCard.load(tmp_path / "README.md")
        names = {result.dataset_name for result in card.data.eval_results}
        shown[len(notes)] = (names, "**The generator learnt from these photos.**" in card.text)
    assert shown == {0: ({"ds_photos"}, False), 1: ({"ds_photos (see the notes under Scores)"}, True)}


def test_examples_of_the_card_run_as_they_stand(
    exported: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported[0], tmp_path / "encoder")
    monkeypatch.chdir(tmp_path / "encoder")
    image = Image.fromarray(coloured_images(5, 300)[0][1]).crop((0, 0, 300, 220))
    turned = Image.Exif()
    turned[0x0112] = 6  # as phones note that a picture is to be turned
    image.save("photo.jpg", exif=turned)
    snippets = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    answers = []
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
        label, probability = capsys.readouterr().out.strip().split("\n")[-1].split()
        answers.append((label, float(probability)))
    # Pillow's box cuts before the resize, open_clip after it: pixels at the rim differ a little.
    assert answers[0][0] == answers[1][0] and abs(answers[0][1] - answers[1][1]) < 0.02


def test_only_the_open_clip_folder(tmp_path: Path, stages: tuple[Any, dict[str, list[Path]]]) -> None:
    wanted, inputs = stages
    exports = wanted.exports.model_copy(update={"onnx": False, "torchscript": False})
    summary, _ = run_stage(export, "export", wanted.model_copy(update={"exports": exports}), inputs, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert not [name for name in summary["files"] if "onnx" in name or "torchscript" in name]
    assert report["latency"] == [] and report["int8"]["reason"] == "not asked for"
    assert "onnxruntime.InferenceSession" not in (tmp_path / "encoder" / "README.md").read_text()


def test_a_measurement_made_for_another_job_gets_this_ones_names(
    tmp_path: Path, stages: tuple[Any, dict[str, list[Path]]]
) -> None:
    wanted, inputs = stages
    shutil.copytree(inputs["evaluate"][0], tmp_path / "evaluated")
    report = json.loads((tmp_path / "evaluated" / "report.json").read_text())
    report["domain"], report["teacher"]["model"] = "another's", "elsewhere"
    (tmp_path / "evaluated" / "report.json").write_text(json.dumps(report))
    exports = wanted.exports.model_copy(update={"onnx": False, "torchscript": False})
    given = {**inputs, "evaluate": [tmp_path / "evaluated"]}
    run_stage(export, "export", wanted.model_copy(update={"exports": exports}), given, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["domain"], report["teacher"]["model"]) == (wanted.domain.name, wanted.teacher.model)


def test_a_stop_is_noticed(tmp_path: Path, stages: tuple[Any, dict[str, list[Path]]]) -> None:
    request = Request("export", 0, "0" * 64, *stages, tmp_path)
    with pytest.raises(Interrupted):
        export.run(request, Reporter(stream=(tmp_path / "events").open("w"), stop_requested=True))
