"""Bias correction of int8 files: what rounding the weights takes from the mean of each channel is given back.

Rounding errors of weights do not cancel out where activations are not around zero: behind a ReLU every output of a
convolution is shifted a little, the same way for every image. The shift is known and can be taken off the bias, which
costs nothing at run time (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv
1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from distillation.export.onnx_files import open_session

Floats = NDArray[np.float32]
MEAN_AXES = {"Conv": (0, 2, 3), "Gemm": (0,)}
"""The products that have a bias of their own, and the axes of their input that are no channels."""


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {output: node for node in graph.node for output in node.output}


def correct_biases(exact: onnx.ModelProto, path: Path, batches: Sequence[Floats]) -> None:
    """Change the biases in the int8 file at ``path`` that was made of ``exact``.

    Args:
        exact: the model in floating point; its products have the same names.
        batches: preprocessed images ``(n, 3, size, size)`` that say what activations are like.
    """
    rounded = onnx.load(path)
    made_by, stored = makers(rounded.graph), {item.name: item for item in rounded.graph.initializer}
    weights = {item.name: numpy_helper.to_array(item) for item in exact.graph.initializer}
    originals = {node.name: node for node in exact.graph.node}
    found: list[tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto]] = []
    for node in rounded.graph.node:
        if node.op_type in MEAN_AXES and len(node.input) == 3:
            original, weight, bias = originals[node.name], made_by.get(node.input[1]), made_by.get(node.input[2])
            # Where an addition shares a bias the quantiser gives it an activation's form; that stays.
            if weight is None or bias is None or original.input[1] not in weights:
                continue
            if _holds(stored, weight, TensorProto.INT8) and _holds(stored, bias, TensorProto.INT32):
                found.append((original, weight, bias))
    means = _input_means(exact, [original for original, _, _ in found], batches)
    for original, weight, bias in found:
        lost = weights[original.input[1]] - _dequantised(weight, stored)
        shift = _mean_output(original, lost, means[original.input[0]])
        target, scale = stored[bias.input[0]], numpy_helper.to_array(stored[bias.input[1]])
        steps = np.round(numpy_helper.to_array(target) + shift.astype(np.float64) / scale)
        limits = np.iinfo(np.int32)
        target.CopyFrom(numpy_helper.from_array(steps.clip(limits.min, limits.max).astype(np.int32), target.name))
    onnx.save(rounded, path)


def _holds(stored: dict[str, onnx.TensorProto], node: onnx.NodeProto, kind: int) -> bool:
    return node.input[0] in stored and stored[node.input[0]].data_type == kind


def _input_means(
    exact: onnx.ModelProto, products: Sequence[onnx.NodeProto], batches: Sequence[Floats]
) -> dict[str, Floats]:
    """The mean of each channel of the products' inputs, by the input's name.

    The graph itself takes the means: its activations would not fit into memory together.
    """
    model = onnx.ModelProto()
    model.CopyFrom(exact)
    del model.graph.output[:]
    names = []
    for product in products:
        name = product.input[0]
        if name not in names:
            names.append(name)
            axes = MEAN_AXES[product.op_type]
            model.graph.node.append(helper.make_node("ReduceMean", [name], [f"{name}_mean"], axes=axes, keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(f"{name}_mean", TensorProto.FLOAT, None))
    if not names:
        return {}
    session = open_session(model.SerializeToString())
    counts = np.array([len(batch) for batch in batches])
    columns = zip(*(session.run(None, {"image": batch}) for batch in batches), strict=True)
    return {name: np.average(column, axis=0, weights=counts) for name, column in zip(names, columns, strict=True)}


def _dequantised(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Floats:
    """What a DequantizeLinear node makes of its symmetric int8 weights."""
    values, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    axis = helper.get_node_attr_value(node, "axis") if scale.ndim else 0
    shape = [-1 if scale.ndim and i == axis else 1 for i in range(values.ndim)]
    result: Floats = values.astype(np.float32) * scale.reshape(shape)
    return result


def _mean_output(product: onnx.NodeProto, weight: Floats, means: Floats) -> Floats:
    """The mean of each output channel, borders aside, of a product with this weight: ``(out,)``."""
    attributes = {item.name: item.i for item in product.attribute}
    if product.op_type == "Gemm":
        of_groups = (weight if attributes.get("transB") else weight.T)[None]
    else:
        of_groups = weight.sum((2, 3)).reshape(attributes.get("group", 1), -1, weight.shape[1])
    result: Floats = of_groups @ means.reshape(len(of_groups), -1, 1)
    return result.reshape(-1)
