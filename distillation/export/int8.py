"""ONNX int8: static per-channel quantisation, kept only if the student stays what it was."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from distillation.export.bias_correction import correct_biases, makers
from distillation.image_sets import ImageSet
from distillation.metrics import feature_cosine, topk_accuracy
from distillation.preprocess import preprocess
from distillation.views import apply_views, sample_views

MIN_COSINE = 0.99
MAX_ACC1_DROP = 0.005
GATE_VIEWS, MOST_VIEWS = 2000, 8
"""Views that the gate judges, and at most so many of each image: one image of a few hundred is half a point."""
BATCH = 16
LAST_PRODUCT = ("Gemm", "MatMul", "Conv")


@dataclass(frozen=True)
class Verdict:
    """The report's section ``int8``; no numbers where nothing was measured."""

    kept: bool
    reason: str
    cosine: float | None = None
    acc1_drop: float | None = None


class _Batches(CalibrationDataReader):  # onnxruntime asks for this class
    def __init__(self, batches: Sequence[NDArray[np.float32]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantise(encoder: Path, path: Path, batches: Sequence[NDArray[np.float32]]) -> None:
    """Write the int8 form (QDQ, per channel) of an exported encoder.

    Args:
        batches: preprocessed images ``(n, 3, size, size)`` to calibrate the activations' ranges on.
    """
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        # Symbolic shapes are only of use to networks with data-dependent shapes; plain inference suffices here.
        quant_pre_process(str(encoder), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _bounds_from_zero(model.graph)
        onnx.save(model, prepared)
        quantize_static(
            str(prepared),
            str(path),
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Seven bits for weights: without VNNI (AVX2, older AVX-512) products of eight bits overflow 16-bit sums.
            reduce_range=True,
            nodes_to_exclude=_normalisation(model),
        )
        correct_biases(model, path, batches)


def _bounds_from_zero(graph: onnx.GraphProto) -> None:
    """Write ``max(conv(x), b)`` as ``relu(conv(x) - b) + b`` where ``b`` is above zero.

    The quantiser drops a bound after a convolution and lets the range of its numbers begin there; but that range always
    holds zero, and what lies between zero and the bound would no longer be raised to it.
    """
    values = {item.name: item for item in graph.initializer}
    made_by, uses = makers(graph), Counter(name for node in graph.node for name in node.input)
    for place, node in reversed(list(enumerate(graph.node))):
        conv = made_by.get(node.input[0]) if node.op_type == "Clip" and not any(node.input[2:]) else None
        if conv is None or conv.op_type != "Conv" or len(conv.input) < 3 or uses[conv.output[0]] > 1:
            continue
        bound, bias = values[node.input[1]], values[conv.input[2]]
        lowest = numpy_helper.to_array(bound)
        if lowest > 0:
            above = node.output[0] + "_above"
            conv.input[2] = above + "_bias"
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(bias) - lowest, conv.input[2]))
            graph.node.insert(place + 1, helper.make_node("Add", [above, bound.name], [node.output[0]], above))
            node.CopyFrom(helper.make_node("Relu", [node.input[0]], [above], node.name))


def _normalisation(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes after the last product: the embedding's normalisation stays in floating point."""
    made_by = makers(model.graph)
    names, waiting = [], [model.graph.output[0].name]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.op_type not in LAST_PRODUCT:
            names.append(node.name)
            waiting.extend(node.input)
    return names


def gate_pixels(
    held_out: ImageSet, cfg: dict[str, Any], crop_scale: tuple[float, float]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Batches for :func:`judge`: every held-out image whole, then in random crops as training makes them.

    Args:
        held_out: few images have more views each; of more than ``GATE_VIEWS`` it should be a sample.

    Yields:
        preprocessed pixels ``(n, 3, size, size)`` and their labels.
    """
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    generator = torch.Generator().manual_seed(0)
    for view in range(min(MOST_VIEWS, -(-GATE_VIEWS // len(held_out)))):
        seen = 0
        for batch in held_out.batches(BATCH):
            if view:
                boxes = sample_views(len(batch), scale=crop_scale, generator=generator)
                pixels = apply_views(torch.from_numpy(batch), boxes, cfg["size"], mean, std)
            else:
                pixels = preprocess(batch, cfg)
            yield pixels.contiguous().numpy(), held_out.labels[seen : seen + len(batch)]
            seen += len(batch)


def judge(
    exact: NDArray[np.float32], rounded: NDArray[np.float32], head: NDArray[np.float32], labels: NDArray[np.int64]
) -> Verdict:
    """The gate: mean cosine of at least 0.99, at most half a point of top-1 lost, on views of held-out images.

    Args:
        exact: fp32 embeddings ``(n, d)``; ``rounded``: the int8 file's.
        head: ``(d, classes)``.
    """
    cosine = feature_cosine(exact, rounded)
    drop = topk_accuracy(exact @ head, labels, 1) - topk_accuracy(rounded @ head, labels, 1)
    failed = []
    if not cosine >= MIN_COSINE:
        failed.append(f"mean cosine {cosine:.4f} with the fp32 embedding is below {MIN_COSINE}")
    if not drop <= MAX_ACC1_DROP:
        failed.append(f"top-1 falls by {100 * drop:.2f} points, more than {100 * MAX_ACC1_DROP:.1f}")
    judged = f"on {len(labels)} views of held-out synthetic images"
    if failed:
        return Verdict(False, f"{judged}: {'; '.join(failed)}", cosine, drop)
    return Verdict(True, f"passed {judged}", cosine, drop)
