"""A training step recorded as one CUDA graph: replayed without a kernel launch from Python between its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from models.memory import is_out_of_memory

log = logging.getLogger(__name__)
SAME_LOSS = 1e-3
"""Largest relative difference between a replayed step's loss and the plain one's."""
WARM_UP = 3
"""Steps before the recording, on a stream of their own, as torch's notes on CUDA graphs ask for."""

Step = Callable[..., Tensor]
"""Tensors of a batch -> its loss, after the weights were updated."""


def whole_step(step: Step, inputs: Sequence[Tensor], state: Mapping[str, Tensor]) -> Step | None:
    """``step`` as one CUDA graph, or None where it cannot be recorded or gives other losses than the plain step.

    Args:
        step: has run once, so that the optimiser's state exists. All numbers that change are tensors.
        inputs: a batch; the graph is for its shapes alone.
        state: every tensor that ``step`` changes. They are what they were when this returns.

    Raises:
        RuntimeError: memory ran out, see ``is_out_of_memory``.
    """
    saved = {name: tensor.clone() for name, tensor in state.items()}

    def restore() -> None:
        for name, tensor in state.items():
            tensor.copy_(saved[name])

    def losses(of: Step) -> Tensor:
        """Of two steps: the second's shows what the first did to the weights."""
        restore()
        torch.manual_seed(0)
        return torch.stack([of(*inputs) for _ in range(2)])

    try:
        expected = losses(step)
        replay = record(step, inputs)
        same = torch.allclose(losses(replay), expected, rtol=SAME_LOSS, atol=0.0)
    except Exception as error:  # layers and optimisers refuse a recording in many ways
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        log.warning("the training step is not recorded as one CUDA graph: %.300s", error)
        return None
    finally:
        restore()
    return replay if same else None


def record(step: Step, inputs: Sequence[Tensor]) -> Step:
    """Run ``step`` a few times, record it, and return a function that replays it on a batch of the same shapes."""
    static = [tensor.clone() for tensor in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*static)

    def replay(*batch: Tensor) -> Tensor:
        for old, new in zip(static, batch, strict=True):
            old.copy_(new)
        graph.replay()
        return loss.clone()

    return replay
