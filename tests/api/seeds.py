"""Jobs brought to an end through the state's own functions, with small real files, as workers would."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sqlalchemy import Engine, select

from state.blobs import BlobStore
from state.claims import claim_task, finish_task, record_checkpoint
from state.database import session_scope
from state.tables import Task

CLASSES = ["red thing", "green thing", "blue thing"]


def model_folder(kind: str, file: str, content: dict[str, Any]) -> str:
    """A directory that looks like a model's, as far as the API looks; nothing here loads weights."""
    folder = MODELS / kind
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    return str(folder)


MODELS = Path(tempfile.mkdtemp(prefix="stillroom-models-"))
atexit.register(shutil.rmtree, MODELS, ignore_errors=True)
TEACHER = model_folder(
    "teacher", "open_clip_config.json", {"model_cfg": {"embed_dim": 256, "vision_cfg": {"image_size": 64}}}
)
GENERATOR = model_folder("generator", "model_index.json", {"_class_name": "StableDiffusionPipeline"})
RECIPE: dict[str, Any] = {
    "domain": {"name": "colours", "classes": CLASSES},
    "student": {"architecture": "resnet18", "image_size": 32, "init": "scratch"},
    "teacher": {"model": f"local-dir:{TEACHER}"},
    "data": {"images_per_class": 12, "shard_size": 16, "generator": {"model": GENERATOR}},
}
MEAN, STD, SIDE = [0.48, 0.45, 0.40], [0.26, 0.26, 0.27], 32
REPORT = {
    "domain": "colours",
    "classes": 3,
    "student": {"architecture": "resnet18", "params": 11_000_000, "macs": 37_000_000},
    "synthetic": {"images": 6, "student": {"acc1": 0.5}},
}


GENERATOR_REPORT: dict[str, Any] = {
    "classes": 3,
    "taught": [[name] for name in CLASSES],
    "size": 64,
    "teacher_acc1": {"generated": 0.75, "held_out": 0.5},
    "variety": {"generated": 0.25, "held_out": 0.5},
    "kid": {"generated": {"mean": 0.125}, "held_out_halves": {"mean": 0.0625}},
    "nearest_training_photo": {"generated": {"smallest_rms": 0.21}, "held_out": {"smallest_rms": 0.11}},
    "images_per_s": 9.0,
    "licence": "CC0-1.0",
}


def recipe(**changes: Any) -> dict[str, Any]:
    """``RECIPE`` with whole sections replaced; the data section keeps its generator."""
    if "data" in changes:
        changes["data"] = {"generator": {"model": GENERATOR}, **changes["data"]}
    return {**RECIPE, **changes}


def classifier_onnx() -> bytes:
    """Mean colour -> softmax over three classes: which channel is the strongest."""
    weight = numpy_helper.from_array(10 * np.eye(3, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(onnx.ModelProto.SerializeToString(model))


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (48, 40), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def finish_job(engine: Engine, blobs: BlobStore, job_id: str, scratch: Path, *, onnx_export: bool = True) -> None:
    """Do the job's tasks until none is ready."""
    for round_ in range(20):
        with session_scope(engine) as session:
            ready = select(Task.id).where(Task.job_id == job_id, Task.status == "ready").order_by(Task.id)
            task_id = session.scalar(ready.limit(1))
            if task_id is None:
                return
            claim = claim_task(session, task_id, "test", 60)
        assert claim is not None
        folder = scratch / f"{job_id}-{round_}"
        report = _write_outputs(claim.stage, claim.shard, folder, onnx_export)
        bundle = blobs.put_bundle(folder)
        with session_scope(engine) as session:
            if claim.stage == "distil":
                saved = {"step": 4, "path": "checkpoints/000004", "metrics": {"loss": 0.4}, "bundle": bundle}
                record_checkpoint(session, task_id, claim.token, **saved)
            finish_task(
                session,
                task_id,
                claim.token,
                bundle=bundle,
                files=blobs.bundle(bundle),
                summary={"images": 6, "images_per_s": 2.0, "views_per_s": 5.0},
                seconds=1.5,
                report=report,
            )


def _write_outputs(stage: str, shard: int, folder: Path, onnx_export: bool) -> dict[str, Any] | None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"stage": stage, "shard": shard, "folder": folder.name}))
    if stage == "generate":
        (folder / "samples").mkdir()
        listing = []
        for index, name in enumerate(CLASSES):
            file = f"{index}.jpg"
            (folder / "samples" / file).write_bytes(picture((40 * index, 10 * shard, 99)))
            listing.append({"file": file, "class": name, "prompt": f"a photo of a {name}", "seed": 7 + index})
        (folder / "samples.json").write_text(json.dumps(listing))
    if stage == "export":
        encoder = folder / "encoder"
        encoder.mkdir()
        preprocess = {"size": SIDE, "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
        (encoder / "open_clip_model.safetensors").write_bytes(bytes(range(256)) * 40)
        (encoder / "labels.json").write_text(json.dumps({"labels": CLASSES, "prompts": [[name] for name in CLASSES]}))
        (encoder / "preprocess.json").write_text(json.dumps(preprocess))
        if onnx_export:
            (encoder / "classifier.onnx").write_bytes(classifier_onnx())
    if stage == "generator":
        unet = folder / "generator" / "unet"
        unet.mkdir(parents=True)
        (unet / "diffusion_pytorch_model.safetensors").write_bytes(bytes(range(256)) * 20 + folder.name.encode())
        for name, content in {"model_index.json": "{}", "README.md": "# card", "report.json": "{}"}.items():
            (folder / "generator" / name).write_text(content)
        return GENERATOR_REPORT
    return REPORT if stage in ("evaluate", "export") else None
