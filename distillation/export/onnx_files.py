"""The encoder in ONNX: ``image -> embedding``, and ``image -> probabilities`` with the text head folded in."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from distillation.protocol import StageError
from models.folded import folded
from models.zero_shot import ImageEmbedder

OPSET = 17
TOLERANCE = 1e-3


def write_image_encoder(path: Path, student: nn.Module, image_size: int) -> None:
    """``image`` float32 ``(batch, 3, size, size)``, normalised -> ``embedding`` ``(batch, d)``, L2-normalised.

    What it computes is the student's; see :func:`models.folded.folded` for how.
    """
    example = torch.zeros(2, 3, image_size, image_size)
    axes = {"image": {0: "batch"}, "embedding": {0: "batch"}}
    with warnings.catch_warnings(), torch.inference_mode():
        # The TorchScript exporter: it exports every architecture of the catalogue with a free batch axis.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            ImageEmbedder(folded(student)).eval(),
            (example,),
            str(path),
            input_names=["image"],
            output_names=["embedding"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def fold_head(encoder: Path, path: Path, head: NDArray[np.float32], logit_scale: float) -> None:
    """Append the zero-shot head to an exported encoder: ``image`` -> ``probabilities`` ``(batch, classes)``.

    Args:
        head: ``(embed_dim, classes)``, one normalised text direction for each class.
        logit_scale: inverse temperature, multiplied into the head.
    """
    model = onnx.load(encoder)
    graph = model.graph
    weights = np.ascontiguousarray(head, dtype=np.float32) * np.float32(logit_scale)
    graph.initializer.append(numpy_helper.from_array(weights, "zero_shot_head"))
    graph.node.append(helper.make_node("MatMul", ["embedding", "zero_shot_head"], ["logits"], "zero_shot_logits"))
    graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "zero_shot_softmax", axis=-1))
    del graph.output[:]
    shape = ["batch", head.shape[1]]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def open_session(model: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session of a file or a serialised model; ``threads`` 0 leaves the choice to onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The session's only output for a batch."""
    output: NDArray[np.float32] = session.run(None, {"image": pixels})[0]
    return output


def check_onnx(path: Path, pixels: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Compare onnxruntime with PyTorch on a batch and on a single image.

    Returns:
        The largest absolute difference.

    Raises:
        StageError: above 1e-3.
    """
    session = open_session(path)
    differences = [np.abs(run_session(session, pixels[:count]) - expected[:count]).max() for count in (len(pixels), 1)]
    worst = float(np.max(differences))
    if not worst <= TOLERANCE:
        raise StageError(
            "bad_architecture",
            f"{path.name} in onnxruntime differs from PyTorch by {worst:.2g}",
            "choose another student.architecture, or set exports.onnx to false",
            "student.architecture",
        )
    return worst
