"""Stage processes are forked from one that has imported everything; each has its own memory, group and folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from distillation import stage_process
from distillation.stage_process import StageProcess

ENTRY = f"{__name__}:entry"
WAIT_SECONDS = 120


def entry(request_file: Path) -> int:
    """What the processes of these tests do: the request file says it."""
    order = request_file.read_text()
    print(f"parent {os.getppid()} group {os.getpgid(0)} {order}", flush=True)
    print("a word on standard error", file=sys.stderr, flush=True)
    if order == "sleep":
        time.sleep(600)
    if order == "raise":
        raise RuntimeError("no luck")
    return int(order)


def start(folder: Path, order: str) -> StageProcess:
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_text(order)
    return StageProcess(folder / "request.json", ENTRY)


def end_of(process: StageProcess) -> list[str]:
    deadline = time.monotonic() + WAIT_SECONDS
    lines = []
    while process.exit_status() is None:
        assert time.monotonic() < deadline
        lines.append(process.line())
    process.close()
    return [line for line in (*lines, *process.remaining_lines()) if line]


def first_line(process: StageProcess) -> str:
    line = process.line(WAIT_SECONDS)
    assert line is not None
    return line


def test_processes_come_from_one_parent_and_say_how_they_ended(tmp_path: Path) -> None:
    parents = set()
    for order, status in (("0", 0), ("75", 75), ("raise", 1)):
        process = start(tmp_path / order, order)
        words = end_of(process)[0].split()
        parents.add(int(words[1]))
        assert words[3] == str(process.pid) != str(os.getpgid(0)) and words[4] == order
        assert process.exit_status() == status
        assert process.stderr_tail[0] == "a word on standard error"
        assert (tmp_path / order / "stderr.log").read_text().startswith("a word on standard error\n")
    assert process.stderr_tail[-1] == "RuntimeError: no luck"
    assert len(parents) == 1 and os.getpid() not in parents


def test_its_end_is_told_at_once(tmp_path: Path) -> None:
    process = start(tmp_path / "one", "0")
    while process.line(WAIT_SECONDS) is not None:  # nothing but its end can end this wait before the test's own limit
        pass
    assert process.exit_status() == 0
    process.close()


def test_a_stage_run_by_hand_imports_what_it_needs(tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from distillation import __main__
from distillation.protocol import Request
from distillation.recipe import Recipe

recipe = Recipe.model_validate({"domain": {"name": "animals", "classes": ["lion", "bee"]}})
folder = Path(sys.argv[1])
Request("prompts", 0, "key", recipe, {}, folder / "out").write(folder / "request.json")
try:
    __main__.app(["stage", str(folder / "request.json")])
except SystemExit as end:
    assert end.code == 0
assert (folder / "out" / "prompts.json").is_file()
assert not {"torch", "diffusers", "onnx"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_stop_and_close_end_it(tmp_path: Path) -> None:
    process = start(tmp_path / "one", "sleep")
    first_line(process)
    process.stop(60)
    assert process.exit_status() == -signal.SIGTERM
    process = start(tmp_path / "two", "sleep")
    process.close()
    assert process.exit_status() == -signal.SIGKILL


def test_it_does_not_outlive_its_parent(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("sleep")
    code = f"""
from pathlib import Path
from distillation.stage_process import StageProcess
process = StageProcess(Path({str(tmp_path / "request.json")!r}), {ENTRY!r})
print(process.line(60), process.pid, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        stage = int(it.stdout.readline().split()[-1])
        os.kill(stage, 0)
        it.kill()
    deadline = time.monotonic() + WAIT_SECONDS
    while is_alive(stage):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_folder_is_never_worked_in_twice(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep")
    first_line(process)
    code = f"""
from pathlib import Path
from distillation import stage_process
stage_process.LOCK_SECONDS = 0.1
print(stage_process.hold(Path({str(tmp_path / "lock")!r})))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
    process.close()
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


def test_importing_the_stages_ahead_starts_no_thread_touches_no_gpu_and_ends_in_silence() -> None:
    """Else what is forked later would be broken: CUDA forbids itself to forks once the parent has counted GPUs. And
    what was imported, set aside from garbage collection, must not be listed as leaked when a command ends."""
    code = f"""
import importlib, threading
import torch
asked = []
torch._C._cuda_getDeviceCount = lambda: asked.append("CUDA was asked") or 1
torch.cuda._device_count_nvml = lambda: 1  # a machine with a GPU, as its driver's library tells
importlib.import_module({stage_process.ENTRY.partition(":")[0]!r})
print(threading.active_count(), torch.cuda.is_initialized(), asked, torch.cuda.is_available())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1 False [] True\n"
    assert "leaked" not in ended.stderr
