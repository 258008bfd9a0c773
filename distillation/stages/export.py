"""Stage ``export``: the encoder's folder with every file that was asked for, each compared with the student."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from distillation.distilling import load_recipe_teacher
from distillation.export.card import sample_prompts, write_card
from distillation.export.int8 import BATCH, GATE_VIEWS, Verdict, gate_pixels, judge, quantise
from distillation.export.latency import machine, measure_latency
from distillation.export.onnx_files import check_onnx, fold_head, open_session, run_session, write_image_encoder
from distillation.export.open_clip_directory import check_open_clip_directory, write_open_clip_directory
from distillation.export.torchscript import write_torchscript
from distillation.image_sets import synthetic_images
from distillation.preprocess import preprocess, student_preprocess
from distillation.prompts import zero_shot_prompts
from distillation.protocol import Interrupted, Reporter, Request, file_sha256, write_atomically
from distillation.student_folder import read_student
from models.errors import full_disk
from models.students import student_features
from models.zero_shot import zero_shot_probabilities

CHECKED_IMAGES = 32
CALIBRATION_IMAGES = 128
PREPROCESS_KEYS = ("size", "mean", "std", "interpolation", "resize_mode")
STEPS = 6


def run(request: Request, report: Reporter) -> dict[str, object]:
    """Write ``encoder/`` and ``report.json``."""
    recipe, out = request.recipe, request.out
    encoder = out / "encoder"
    shutil.rmtree(encoder, ignore_errors=True)
    encoder.mkdir(parents=True)
    content = json.loads((request.inputs["evaluate"][0] / "report.json").read_text(encoding="utf-8"))
    # A measurement that another job had made carries that job's names.
    content["domain"], content["teacher"]["model"] = recipe.domain.name, recipe.teacher.title
    if content["real"] and recipe.evaluation.dataset:
        content["real"]["dataset"] = Path(recipe.evaluation.dataset).name
    progress = _Steps(report)

    teacher = load_recipe_teacher(recipe, torch.device("cpu"))
    student, described = read_student(request.inputs["distil"][0])
    student.eval()
    size = int(described["image_size"])
    cfg = student_preprocess(teacher.preprocess_cfg, size)
    head = teacher.zero_shot_head(zero_shot_prompts(recipe.domain))
    held_out = synthetic_images(request.inputs["generate"], holdout=True).sample(GATE_VIEWS, recipe.data.seed)
    pixels = preprocess(next(held_out.batches(CHECKED_IMAGES)), cfg)
    with torch.inference_mode():
        embeddings = student_features(student, pixels, autocast=False)
    progress.done()

    write_open_clip_directory(encoder, student, teacher, model_cfg=described["model_cfg"], preprocess_cfg=cfg)
    parity = {"open_clip": check_open_clip_directory(encoder, pixels, embeddings, teacher)}
    progress.done()

    scale, files = teacher.logit_scale, _Files(encoder)
    int8 = Verdict(False, "not asked for")
    if recipe.exports.onnx:
        write_image_encoder(files.encoder, student, size)
        fold_head(files.encoder, files.classifier, head.numpy(), scale)
        probabilities = zero_shot_probabilities(embeddings, head, scale)
        for path, expected in ((files.encoder, embeddings), (files.classifier, probabilities)):
            parity[path.name] = check_onnx(path, pixels.numpy(), expected.numpy())
        progress.done()
        if recipe.exports.int8:
            training = synthetic_images(request.inputs["generate"], holdout=False)
            calibration = training.sample(CALIBRATION_IMAGES, recipe.data.seed).batches(BATCH)
            views = gate_pixels(held_out, cfg, recipe.training.crop_scale)
            int8 = _int8(files, views, [preprocess(batch, cfg).numpy() for batch in calibration], head, scale)
            if not int8.kept:
                report.warning("int8_not_kept", f"int8 is left out: {int8.reason}")
    progress.done()
    if recipe.exports.torchscript:
        path = encoder / "encoder.torchscript.pt"
        parity[path.name] = write_torchscript(path, student, pixels, embeddings)

    content["latency"] = _latency(files, size) if recipe.evaluation.latency else []
    progress.done()
    content |= {"int8": asdict(int8), "parity": parity, "machine": machine()}
    _write_texts(encoder, request, cfg)
    write_card(encoder, recipe, content, sample_prompts(request.inputs["generate"]))
    content["files"] = [
        {"name": path.name, "sha256": file_sha256(path), "size": path.stat().st_size}
        for path in sorted(encoder.iterdir())
    ]
    for folder in (encoder, out):
        write_atomically(folder / "report.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    progress.done()
    return {
        "files": [item["name"] for item in content["files"]],
        "bytes": sum(item["size"] for item in content["files"]),
        "int8_kept": int8.kept,
        "largest_difference": max(parity.values()),
    }


class _Steps:
    """Progress in steps; a stop is noticed between two of them, and the next attempt starts afresh."""

    def __init__(self, report: Reporter) -> None:
        self._report, self._count = report, 0

    def done(self) -> None:
        if self._report.stop_requested:
            raise Interrupted
        self._count = min(self._count + 1, STEPS)
        self._report.progress(self._count, STEPS, "steps")


class _Files:
    """Names of the ONNX files in an encoder's folder."""

    def __init__(self, folder: Path) -> None:
        self.encoder, self.encoder_int8 = folder / "image_encoder.onnx", folder / "image_encoder.int8.onnx"
        self.classifier, self.classifier_int8 = folder / "classifier.onnx", folder / "classifier.int8.onnx"


def _int8(
    files: _Files,
    views: Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]],
    calibration: Sequence[NDArray[np.float32]],
    head: Tensor,
    scale: float,
) -> Verdict:
    """Quantise, judge on views of held-out images, and remove the file again where it does not pass."""
    try:
        quantise(files.encoder, files.encoder_int8, calibration)
        exact, rounded = open_session(files.encoder), open_session(files.encoder_int8)
    except Exception as error:  # onnxruntime raises many types for graphs that it cannot quantise
        files.encoder_int8.unlink(missing_ok=True)
        if full_disk(error):
            raise
        return Verdict(False, f"onnxruntime cannot quantise this architecture: {error}"[:300])
    judged = [(run_session(exact, pixels), run_session(rounded, pixels), labels) for pixels, labels in views]
    first, second, labels = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    verdict = judge(first, second, head.numpy(), labels)
    if verdict.kept:
        fold_head(files.encoder_int8, files.classifier_int8, head.numpy(), scale)
    else:
        files.encoder_int8.unlink()
    return verdict


def _latency(files: _Files, size: int) -> list[dict[str, str | int | float]]:
    measured = ((files.encoder, "fp32"), (files.encoder_int8, "int8"))
    return [row for path, precision in measured if path.is_file() for row in measure_latency(path, precision, size)]


def _write_texts(encoder: Path, request: Request, cfg: dict[str, Any]) -> None:
    domain = request.recipe.domain
    texts = {
        "labels.json": {"labels": domain.class_names, "prompts": zero_shot_prompts(domain)},
        "preprocess.json": {key: cfg[key] for key in PREPROCESS_KEYS},
    }
    for name, content in texts.items():
        (encoder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    recipe = yaml.safe_dump(request.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (encoder / "recipe.yaml").write_text(recipe, encoding="utf-8")
