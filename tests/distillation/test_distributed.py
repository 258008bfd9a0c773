"""Two processes with gloo on the CPU, started by torchrun, give what one process gives on the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distillation import distributed
from distillation.protocol import INTERRUPTED, Reporter
from distillation.stage_process import StageProcess
from distillation.stages import distil
from models.students import build_student, student_config
from tests.distillation import ranks
from tests.distillation.training_folders import request, training_recipe

pytestmark = pytest.mark.usefixtures("preloaded_stages")
ENTRY = f"{__name__}:two_processes"
WAIT_SECONDS = 240


def two_processes(request_file: Path) -> int:
    """As the product's child does where it sees two GPUs."""
    return distributed.start(request_file, 2)


def test_the_weights_are_those_of_one_process(shards: list[Path], teacher_folder: Path, tmp_path: Path) -> None:
    """Losses of single images and of pairs, the second forward of masked images, a layer beside the student."""
    asked = {"shards": [str(shard) for shard in shards], "teacher": str(teacher_folder)}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, "-m", "tests.distillation.ranks", str(tmp_path)], check=True, timeout=WAIT_SECONDS)
    for case in ranks.CASES:
        alone = ranks.trained(case, shards, teacher_folder)
        first, second = (load_file(tmp_path / f"{case}-{rank}.safetensors") for rank in range(2))
        assert alone.keys() == first.keys() == second.keys()
        for name, tensor in alone.items():
            assert torch.equal(first[name], second[name]), (case, name)
            # Of each tensor as a whole: gd's large weight makes rounding errors of single numbers large.
            wrong, size = (torch.linalg.vector_norm(part.float()) for part in (first[name] - tensor, tensor))
            assert wrong <= 5e-5 * size + 2.5e-5, (case, name)


def started(folder: Path, wanted: Any, shards: list[Path]) -> StageProcess:
    folder.mkdir(exist_ok=True)
    request("distil", wanted, {"generate": shards}, folder / "out").write(folder / "request.json")
    return StageProcess(folder / "request.json", ENTRY)


def lines_until(process: StageProcess, event: str) -> list[dict[str, Any]]:
    """The events up to the first of a kind, or to the end of the process."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while process.exit_status() is None and (not found or found[-1]["event"] != event):
        assert time.monotonic() < deadline
        if line := process.line():
            found.append(json.loads(line))
    return found


def rest_of(process: StageProcess) -> list[dict[str, Any]]:
    found = lines_until(process, "never")
    process.close()
    return [*found, *map(json.loads, process.remaining_lines())]


def test_a_stage_is_stopped_and_goes_on(shards: list[Path], teacher_folder: Path, tmp_path: Path) -> None:
    """SIGTERM, one checkpoint of all, resumption: the student of one process that was never stopped."""
    wanted = training_recipe(
        teacher_folder, steps=50, optimizer="sgd", lr=0.01, losses={"i2i": 1.0}, checkpoint_seconds=0.05
    )
    student = wanted.student.model_copy(update={"architecture": "test_convnext"})
    wanted = wanted.model_copy(update={"student": student})
    process = started(tmp_path / "two", wanted, shards)
    assert lines_until(process, "checkpoint")[-1]["event"] == "checkpoint", process.stderr_tail
    process.stop(WAIT_SECONDS)
    saved = [event for event in rest_of(process) if event["event"] == "checkpoint"]
    assert process.exit_status() == INTERRUPTED
    out = tmp_path / "two" / "out"
    newest = max(int(path.name) for path in (out / "checkpoints").iterdir())
    assert saved[-1]["step"] == newest < 50 and not (out / "manifest.json").exists()
    names = load_file(out / "checkpoints" / f"{newest:06d}" / "state.safetensors")
    assert not [name for name in names if "module." in name], "the student is saved as it is"

    process = started(tmp_path / "two", wanted, shards)
    events = rest_of(process)
    assert process.exit_status() == 0, process.stderr_tail
    [done] = [event["summary"] for event in events if event["event"] == "done"]
    assert done["steps"] == 50
    manifest = json.loads((out / "manifest.json").read_text())
    assert {file["name"] for file in manifest["files"]} == {"student.safetensors", "student.json", "curve.jsonl"}

    alone = distil.run(request("distil", wanted, {"generate": shards}, tmp_path / "one"), Reporter())
    assert done["loss"] == pytest.approx(alone["loss"], rel=0.02)
    one, two = (load_file(folder / "student.safetensors") for folder in (tmp_path / "one", out))
    assert one.keys() == two.keys()
    torch.manual_seed(0)
    start = build_student(json.loads((out / "student.json").read_text())["model_cfg"]).state_dict()
    between = torch.cat([(two[name] - one[name]).flatten() for name in one]).norm()
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one]).norm()
    assert between <= 0.1 * moved, "much nearer to each other than to the start; in bf16 where the machine has it"


def test_the_first_error_is_the_one_that_is_told(shards: list[Path], teacher_folder: Path, tmp_path: Path) -> None:
    wanted = training_recipe(teacher_folder)
    student = wanted.student.model_copy(update={"architecture": "test_no_such"})
    process = started(tmp_path / "job", wanted.model_copy(update={"student": student}), shards)
    events = rest_of(process)
    assert process.exit_status() == 1
    assert {event["code"] for event in events if event["event"] == "error"} == {"bad_architecture"}


def test_no_process_outlives_the_one_that_watches_them(
    shards: list[Path], teacher_folder: Path, tmp_path: Path
) -> None:
    process = started(tmp_path / "job", training_recipe(teacher_folder, steps=100_000), shards)
    assert lines_until(process, "progress")[-1]["event"] == "progress", process.stderr_tail
    trainers = processes_with(str(tmp_path / "job" / "request.json"))
    assert len(trainers) == 2
    process.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while processes_with(str(tmp_path / "job" / "request.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_with(argument: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if argument in (folder / "cmdline").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return [pid for pid in found if pid != os.getpid()]


def test_one_process_for_each_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert distributed.processes_for("distil", 128) == distributed.processes_for("agnostic", 128) == 8
    assert distributed.processes_for("distil", 6) == 6
    assert distributed.processes_for("generate", 128) == 1
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    assert distributed.processes_for("distil", 128) == 1
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert distributed.processes_for("distil", 128) == 1


@pytest.mark.parametrize(("count", "processes"), [(128, 8), (7, 3), (2, 2)])
def test_every_row_is_one_process_s(count: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: processes)
    parts: list[int] = []
    lengths = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        own = range(count)[distributed.own_rows(count)]
        parts += own
        lengths.append(len(own))
    assert parts == list(range(count))
    assert max(lengths) - min(lengths) <= 1


def test_batch_statistics_are_shared_on_gpus_and_the_state_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    student = build_student(student_config("test_resnet", 48, {"embed_dim": 32}))
    assert distributed.with_shared_statistics(student) is student, "not on a CPU"
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    shared = distributed.with_shared_statistics(student.to("meta"))
    assert {name: tensor.shape for name, tensor in shared.state_dict().items()} == shapes
    kinds = [type(module) for module in shared.modules()]
    assert any(issubclass(kind, nn.SyncBatchNorm) for kind in kinds)
    assert not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
