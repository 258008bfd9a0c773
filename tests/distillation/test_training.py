"""The training loop on a tiny corpus: it learns, repeats itself, resumes, and says what went wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distillation.corpus import Corpus
from distillation.distilling import training_length
from distillation.protocol import Interrupted, StageError
from distillation.recipe import Training
from distillation.schedules import ema_decay, lr_factor
from distillation.trainer import TeacherFacts, Trainer
from distillation.training import Length, train
from tests.distillation.training_folders import Heard, new_trainer, training


def run(
    corpus: Corpus, teacher: TeacherFacts, out: Path, report: Heard | None = None, **changes: Any
) -> tuple[Trainer, dict[str, Any]]:
    wanted = training(**changes)
    out.mkdir(exist_ok=True)
    trainer = new_trainer(corpus, teacher, wanted)
    length = training_length(wanted, corpus.count)
    return trainer, train(trainer, corpus, wanted, length, out, report or Heard(), lambda: {"holdout_cosine": 0.5})


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.state().items()}


def assert_same(first: Trainer, second: Trainer) -> None:
    one, other = state(first), state(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_it_learns(corpus: Corpus, teacher: TeacherFacts, tmp_path: Path) -> None:
    _, summary = run(corpus, teacher, tmp_path, steps=60, lr=5e-3)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert summary["steps"] == 60 and summary["loss"] == curve[-1]["loss"]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert sum("holdout_cosine" in row for row in curve) == 4


@pytest.mark.parametrize("losses", [{"l2": 1.0}, {"afd": 1.0, "mfd": 2000.0, "mse": 1.0}])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "muon"])
def test_every_optimizer_repeats_itself_and_resumes_exactly(
    optimizer: str, losses: dict[str, float], corpus: Corpus, teacher: TeacherFacts, tmp_path: Path
) -> None:
    changes = {"optimizer": optimizer, "lr": 1e-3, "losses": losses}
    unbroken, _ = run(corpus, teacher, tmp_path / "a", **changes)
    with pytest.raises(Interrupted):
        run(corpus, teacher, tmp_path / "b", (heard := Heard(stop_after=5)), **changes)
    (saved,) = heard.events("checkpoint")
    assert saved["step"] == 5 and (tmp_path / "b" / saved["path"]).is_dir()
    resumed, summary = run(corpus, teacher, tmp_path / "b", **changes)
    assert summary["steps"] == 12
    assert_same(unbroken, resumed)


def test_checkpoints_come_by_time(corpus: Corpus, teacher: TeacherFacts, tmp_path: Path) -> None:
    heard = Heard()
    run(corpus, teacher, tmp_path, heard, checkpoint_seconds=1e-6)
    assert [event["step"] for event in heard.events("checkpoint")] == list(range(1, 12))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_average_follows_the_weights(corpus: Corpus, teacher: TeacherFacts, tmp_path: Path) -> None:
    """Against a plain average of every weight after every step."""
    wanted = training(ema=0.7)
    trainer = new_trainer(corpus, teacher, wanted)
    expected = {name: p.detach().clone() for name, p in trainer.student.named_parameters()}
    for number in range(5):
        trainer.step(corpus.batch(8 * number, 8, 0), number, 1e-2)
        decay = min(0.7, (1 + number) / (10 + number))
        for name, parameter in trainer.student.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    for name, parameter in trainer.result.named_parameters():
        torch.testing.assert_close(parameter, expected[name])
    without, _ = run(corpus, teacher, tmp_path, ema=None)
    assert without.result is without.student


def test_memory_running_out_halves_the_batch(
    corpus: Corpus, teacher: TeacherFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 4)
    heard = Heard()
    _, summary = run(corpus, teacher, tmp_path, heard, batch_size=16, steps=3)
    assert [event["code"] for event in heard.events("warning")] == ["batch_halved", "batch_halved"]
    assert summary["steps"] == 12  # as many images as three steps of 16


def test_memory_running_out_for_good_is_an_error(
    corpus: Corpus, teacher: TeacherFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 1)
    with pytest.raises(StageError) as caught:
        run(corpus, teacher, tmp_path)
    assert caught.value.code == "out_of_memory" and caught.value.field == "training.batch_size"


def limit_memory(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """A stand-in for a small GPU: the step fails as CUDA's does, after the forward pass, above ``images`` images."""
    real = Trainer._loss

    def loss(self: Trainer, batch: Any) -> torch.Tensor:
        value = real(self, batch)
        if len(batch.images) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return value

    monkeypatch.setattr(Trainer, "_loss", loss)


def test_another_error_is_not_taken_for_memory(
    corpus: Corpus, teacher: TeacherFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: Trainer, batch: Any) -> torch.Tensor:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(Trainer, "_loss", loss)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(corpus, teacher, tmp_path)


def test_divergence_is_explained(corpus: Corpus, teacher: TeacherFacts, tmp_path: Path) -> None:
    facts = TeacherFacts(**{**vars(teacher), "scale": math.inf})
    with pytest.raises(StageError) as caught:
        run(corpus, facts, tmp_path, losses={"i2i": 1.0})
    assert caught.value.field == "training.lr"


def test_a_time_budget_ends_in_time(corpus: Corpus, teacher: TeacherFacts, tmp_path: Path) -> None:
    heard = Heard()
    _, summary = run(corpus, teacher, tmp_path, heard, minutes=0.02, steps=None)
    last = heard.events("progress")[-1]
    assert last["done"] == last["total"] == summary["steps"] >= 1
    rates = [json.loads(line)["lr"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert rates[-1] == min(rates[-3:])


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"steps": 7}, 56),
        ({"steps": None, "epochs": 2.0}, 112),
        ({"steps": None}, 1080),
        ({"steps": 1, "batch_size": 999}, 54),
    ],
)
def test_length(changes: dict[str, Any], images: int) -> None:
    assert training_length(training(**changes), 54) == Length(images)


@pytest.mark.parametrize(
    "losses", [{"contrastive": 1, "l2": 0.1}, {"crd": 1, "mse": 2000, "contrastive": 1}, {"gd": 6100, "afd": 1}]
)
def test_losses_on_captions_train(
    losses: dict[str, float], corpus: Corpus, teacher: TeacherFacts, tmp_path: Path
) -> None:
    _, summary = run(corpus, teacher, tmp_path, losses=losses, steps=3)
    assert math.isfinite(summary["loss"])


def test_the_layer_of_afd_is_trained_and_part_of_the_state(corpus: Corpus, teacher: TeacherFacts) -> None:
    trainer = new_trainer(corpus, teacher, training(losses={"afd": 1.0}))
    before = state(trainer)
    trainer.step(corpus.batch(0, 8, 0), 0, 1e-2)
    after = state(trainer)
    names = {name for name in before if name.startswith("augmentation.")}
    assert names == {"augmentation.weight", "augmentation.bias"}
    assert all(not torch.equal(before[name], after[name]) for name in names)
    width = teacher.embed_dim
    assert any(t.shape == (width, 2 * width) for name, t in after.items() if name.startswith("optimizer."))
    assert not any("augmentation" in name for name in trainer.result.state_dict())


def test_schedules() -> None:
    wanted = Training.model_validate({})
    assert lr_factor(0.0, "cosine", 0.05) == 0.01 and lr_factor(0.025, "cosine", 0.05) == pytest.approx(0.5)
    assert lr_factor(0.05, wanted.schedule, 0.05) == 1.0 and lr_factor(1.0, "cosine", 0.05) == 0.0
    assert lr_factor(0.525, "cosine", 0.05) == pytest.approx(0.5) == lr_factor(0.525, "linear", 0.05)
    assert lr_factor(0.9, "constant", 0.0) == 1.0 == lr_factor(0.0, "linear", 0.0)
    assert ema_decay(0, 0.998) == 0.1 and ema_decay(10**6, 0.998) == 0.998
