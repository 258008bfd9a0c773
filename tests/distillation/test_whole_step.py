"""The whole step as one graph: it trains as the plain step does, or is not used.

Without a GPU the recording is a stand-in that runs the step on tensors of its own, as a graph does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillation.corpus import Corpus, TrainingBatch
from distillation.trainer import TeacherFacts, Trainer
from distillation.whole_step import Step
from tests.distillation.training_folders import new_trainer, training

STEPS = [
    ({"l2": 1.0}, "adamw"),
    ({"contrastive": 1.0, "mfd": 2000.0, "afd": 1.0}, "adamw"),
    ({"l2": 1.0}, "muon"),  # the other losses magnify how a rate that is a tensor is rounded
]


class Recorder:
    """Stands for ``record``: replays the step on tensors that were fixed when it was recorded."""

    def __init__(self, error: float = 0.0, fails: Exception | None = None) -> None:
        self.recorded, self.replayed, self._error, self._fails = 0, 0, error, fails

    def __call__(self, step: Step, inputs: Sequence[Tensor]) -> Step:
        step(*inputs)  # the warm-up changes the weights
        if self._fails:
            raise self._fails
        self.recorded += 1
        static = [tensor.clone() for tensor in inputs]

        def replay(*batch: Tensor) -> Tensor:
            self.replayed += 1
            for old, new in zip(static, batch, strict=True):
                old.copy_(new)
            return step(*static) * (1 + self._error)

        return replay


def losses(trainer: Trainer, corpus: Corpus, sizes: Sequence[int]) -> list[float]:
    # Powers of two, whose products round alike as numbers and as tensors: bf16, Adam and Muon make a difference in the
    # last digit of a rate visible at once.
    return [
        trainer.step(corpus.batch(16 * number, size, 0), number, 2.0 ** -(8 + number % 3)).item()
        for number, size in enumerate(sizes)
    ]


def recording(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Trainer:
    monkeypatch.setattr("distillation.whole_step.record", recorder)
    trainer._recordable = True
    return trainer


@pytest.mark.parametrize(("weights", "optimizer"), STEPS)
def test_the_recorded_step_is_the_plain_one(
    weights: dict[str, float], optimizer: str, corpus: Corpus, teacher: TeacherFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    if optimizer == "muon":  # in bf16, which some CPUs have, its steps magnify every last digit
        for name in ("optimizers", "trainer"):
            monkeypatch.setattr(f"distillation.{name}.bf16_is_native", lambda device: False)
    wanted = training(losses=weights, optimizer=optimizer, weight_decay=2.0**-7)
    plain = new_trainer(corpus, teacher, wanted)
    recorded = recording(new_trainer(corpus, teacher, wanted), monkeypatch, recorder := Recorder())
    sizes = [8, 8, 8, 8, 4, 4, 4]
    expected, found = losses(plain, corpus, sizes), losses(recorded, corpus, sizes)
    assert recorder.recorded == 2, "one graph for each size of batch"
    assert recorder.replayed == 5 + 2 * 2, "all steps but the first of each size, and two trials of each graph"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    assert_close(recorded, plain)


CAPTURING = "operation not permitted when stream is capturing"


@pytest.mark.parametrize(
    "recorder",
    [Recorder(error=0.01), Recorder(fails=RuntimeError(CAPTURING)), Recorder(fails=AssertionError("not capturable"))],
)
def test_a_recording_that_fails_or_differs_is_not_used(
    recorder: Recorder, corpus: Corpus, teacher: TeacherFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = new_trainer(corpus, teacher, training())
    recorded = recording(new_trainer(corpus, teacher, training()), monkeypatch, recorder)
    expected, found = losses(plain, corpus, [8] * 4), losses(recorded, corpus, [8] * 4)
    assert not recorded._recordable
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    assert_close(recorded, plain)


def test_a_step_that_cannot_be_recorded_stays_compiled(
    corpus: Corpus, teacher: TeacherFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(batch: TrainingBatch) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(CAPTURING)
        return trainer._loss(batch)

    def record(step: Step, inputs: Sequence[Tensor]) -> Step:
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
            return Recorder()(step, inputs)

    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("distillation.whole_step.record", record)
    plain, trainer = (new_trainer(corpus, teacher, training()) for _ in range(2))
    trainer._recordable, trainer._compiled = True, compiled
    expected, found = losses(plain, corpus, [8] * 3), losses(trainer, corpus, [8] * 3)
    assert not trainer._recordable and trainer._compiled is compiled
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


def test_memory_running_out_while_recording_leaves_the_weights(
    corpus: Corpus, teacher: TeacherFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(step: Step, inputs: Sequence[Tensor]) -> Any:
        step(*inputs)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trainer = new_trainer(corpus, teacher, training())
    monkeypatch.setattr("distillation.whole_step.record", record)
    trainer._recordable = True
    trainer.step(corpus.batch(0, 8, 0), 0, 1e-3)
    before = {name: tensor.clone() for name, tensor in trainer.state().items()}
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step(corpus.batch(8, 8, 0), 1, 1e-3)
    after = trainer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device, there is none here")
@pytest.mark.parametrize(("weights", "optimizer"), STEPS)
def test_a_cuda_graph_trains_as_the_plain_step(
    weights: dict[str, float], optimizer: str, shards: list[Path], teacher: TeacherFacts
) -> None:
    corpus = Corpus.open(shards, torch.device("cuda"), with_captions=True)
    wanted = training(losses=weights, optimizer=optimizer)
    plain, graph = (new_trainer(corpus, teacher, wanted) for _ in range(2))
    plain._recordable = False  # compiled too: bf16 rounds differently elsewhere, and masks are drawn otherwise
    expected, found = losses(plain, corpus, [8] * 6), losses(graph, corpus, [8] * 6)
    assert graph._replay is not None, "the step was not recorded"
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0.0)
    before = {name: tensor.clone() for name, tensor in graph.result.state_dict().items()}
    losses(graph, corpus, [8])
    assert any(not torch.equal(before[name], tensor) for name, tensor in graph.result.state_dict().items())


def assert_close(first: Trainer, second: Trainer) -> None:
    one, other = first.state(), second.state()
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5, msg=name)
