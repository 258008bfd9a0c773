"""What is measured: the catalogue's students and their peers, as files and as modules in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillation.catalogue import FULL_STUDENTS
from distillation.export.int8 import Verdict, judge, quantise
from distillation.export.onnx_files import check_onnx, open_session, run_session, write_image_encoder
from models.folded import folded
from models.students import build_student, count_macs, count_params, student_config

PEERS = ("ViT-B-32", "MobileCLIP2-S0")
"""open_clip models whose image towers are measured beside the students; all ratios are against the first."""
PICTURES, CALIBRATION = 48, 32


@dataclass(frozen=True)
class Candidate:
    """A network with random weights; ``params`` and ``macs`` include the projection to ``embed_dim``."""

    name: str
    tower: nn.Module
    image_size: int
    params: int
    macs: int
    preset: str | None = None
    top1: float | None = None


@dataclass(frozen=True)
class Exported:
    """A candidate's files; ``int8`` is None where onnxruntime cannot quantise it."""

    fp32: Path
    int8: Path | None
    verdict: Verdict
    difference: float


def matmul_flops(threads: int, *, side: int = 1024, seconds: float = 1.0) -> float:
    """Best floating-point operations per second of a square fp32 matrix product in onnxruntime.

    Its kernels are not PyTorch's, so PyTorch's rate is no limit for them.
    """
    square = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side]) for name in "abc"]
    product = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph([product], "product", square[:2], square[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    a, b = np.random.default_rng(0).standard_normal((2, side, side), np.float32)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        session.run(None, {"a": a, "b": b})
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def whole_params() -> int:
    """Parameters of the whole CLIP whose image tower is the first peer."""
    with torch.device("meta"):
        config = open_clip.get_model_config(PEERS[0])
        return count_params(open_clip.CLIP(**config))


def candidates(only: Iterable[str], size: int | None) -> Iterator[Candidate]:
    """The peers, then the students (all of them, or those named), at ``size`` or their own size in pixels."""
    for name in PEERS:
        clip = open_clip.create_model(name, force_image_size=size).eval()
        side = size or clip.visual.image_size
        side = side if isinstance(side, int) else side[0]
        yield Candidate(name, clip.visual, side, count_params(clip.visual), count_macs(clip.visual, side))
    embed_dim = open_clip.get_model_config(PEERS[0])["embed_dim"]
    for row in FULL_STUDENTS:
        if only and row.architecture not in only:
            continue
        side = size or row.image_size
        tower = build_student(student_config(row.architecture, side, {"embed_dim": embed_dim})).eval()
        params, macs = count_params(tower), count_macs(tower, side)
        yield Candidate(row.architecture, tower, side, params, macs, row.preset, row.top1)


def pictures(count: int, size: int, seed: int) -> Tensor:
    """Coloured clouds with some grain, as normalised pixels ``(count, 3, size, size)``: no two look alike."""
    random = torch.Generator().manual_seed(seed)
    clouds = torch.randn(count, 3, 7, 7, generator=random)
    grain = torch.randn(count, 3, size, size, generator=random)
    return F.interpolate(clouds, size=(size, size), mode="bicubic") + 0.3 * grain


@torch.no_grad()
def settle(tower: nn.Module, pixels: Tensor) -> None:
    """Give random weights what training would: without it activations explode or vanish, or a layer does nothing.

    Batch normalisation gets its statistics from images, and scalars values of their own: onnxruntime drops a
    multiplication by one.
    """
    random = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        if parameter.numel() == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    norms = [layer for layer in tower.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = None  # the mean over all batches seen
        layer.train()
    tower(pixels)
    for layer, momentum in zip(norms, kept, strict=True):
        layer.momentum = momentum
        layer.eval()


def export(candidate: Candidate, folder: Path) -> Exported:
    """Write both files by the product's export, compare fp32 with PyTorch, and let the product's gate judge int8.

    Every picture is a class of its own for the gate: an int8 embedding must be nearest to the fp32 one of its picture.

    Raises:
        StageError: onnxruntime and PyTorch differ.
    """
    size = candidate.image_size
    settle(candidate.tower, pictures(CALIBRATION, size, 0))
    pixels = pictures(PICTURES, size, 1)
    fp32, int8 = folder / f"{candidate.name}.onnx", folder / f"{candidate.name}.int8.onnx"
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the peers' attention has no ONNX form otherwise
    write_image_encoder(fp32, candidate.tower, size)
    torch.backends.mha.set_fastpath_enabled(fused)
    with torch.inference_mode():
        expected = F.normalize(candidate.tower(pixels[:4]), dim=-1).numpy()
    difference = check_onnx(fp32, pixels[:4].numpy(), expected)
    try:
        quantise(fp32, int8, [part.numpy() for part in pictures(CALIBRATION, size, 0).split(8)])
        rounded = run_session(open_session(int8), pixels.numpy())
    except Exception as error:  # as in the export stage
        return Exported(fp32, None, Verdict(False, f"onnxruntime cannot quantise it: {error}"[:300]), difference)
    exact = run_session(open_session(fp32), pixels.numpy())
    return Exported(fp32, int8, judge(exact, rounded, exact.T, np.arange(PICTURES)), difference)


def in_bf16(candidate: Candidate, device: torch.device) -> nn.Module:
    """The candidate as onnxruntime would run it if it had bf16 convolutions: folded, in bf16, channels-last."""
    return folded(candidate.tower).to(device, torch.bfloat16).to(memory_format=torch.channels_last)
