"""A stage as small as can be that speaks the whole protocol: the supervisor's tests run it as the child process.

The recipe's ``domain.superclass`` says how each stage behaves: ``distil=slow``, ``generate=error``, ...
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 30
stop_asked = False


def ask_to_stop(*_: object) -> None:
    global stop_asked
    stop_asked = True


def tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def save(out: Path, step: int) -> None:
    folder = out / "checkpoints" / f"{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.json").write_text(str(step))
    tell(event="checkpoint", step=step, path=f"checkpoints/{step:06d}", metrics={"loss": 1 / (step + 1)})


def slow(out: Path, *, waits: bool = False) -> dict[str, Any]:
    """Works step by step, saves, goes on where it was.

    Args:
        waits: half-way through its first attempt, until it is asked to stop.
    """
    saved = sorted(path.name for path in (out / "checkpoints").glob("*"))
    first = int((out / "checkpoints" / saved[-1] / "step.json").read_text()) if saved else 0
    for step in range(first, STEPS):
        while waits and not first and step == STEPS // 2 and not stop_asked:
            time.sleep(0.01)
        if stop_asked:
            save(out, step)
            sys.exit(75)
        time.sleep(0.04)
        tell(event="progress", done=step + 1, total=STEPS, unit="steps", rate=20.0, metrics={"loss": float("nan")})
        if step % 5 == 4:
            save(out, step + 1)
    return {"resumed_from": first}


def main(request_file: Path) -> int:
    signal.signal(signal.SIGTERM, ask_to_stop)
    request = json.loads(request_file.read_text())
    out, stage = Path(request["out"]), request["stage"]
    domain = request["recipe"].get("domain", {"name": "", "superclass": ""})  # a generator's recipe has none
    ways = dict(item.split("=") for item in domain["superclass"].split(",") if item)
    way = ways.get(stage, "well")
    with (out.parent / "attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    attempts = len((out.parent / "attempts").read_text().splitlines())
    print(f"{stage} goes {way}", file=sys.stderr, flush=True)
    summary: dict[str, Any] = {"images": 3}
    match way:
        case "slow":
            summary |= slow(out)
        case "waiting":
            summary |= slow(out, waits=True)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tell(event="progress", done=1, total=2, unit="steps", rate=1.0, metrics={})
            time.sleep(600)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "mute":
            for number in range(60):
                print(f"stderr line {number}", file=sys.stderr)
            return 3
        case "liar":
            tell(event="done", summary={})
            return 0
        case "error":
            tell(event="error", code="weights_missing", message="no weights", hint="get them", field="teacher.model")
            return 1
        case "odd":
            tell(event="error", code="bad_dataset", message=os.fsdecode(b"caf\xe9.tar is broken\0"), hint="")
            return 1
        case "flaky" if attempts == 1:
            tell(event="error", code="hub_unreachable", message="no network", hint="", field="")
            return 1
    print("this line is not JSON")
    print('{"event": "progress", "done": "nonsense"}')
    print("[1, 2]")
    tell(event="warning", code="batch_halved", message="memory ran out once")
    tell(event="progress", done=3, total=3, unit="images", rate=9.0, metrics={"loss": 0.5})
    write(request, out, summary)
    tell(event="done", summary=summary)
    return 0


def write(request: dict[str, Any], out: Path, summary: dict[str, Any]) -> None:
    stage = request["stage"]
    inputs = {
        name: [sorted(path.name for path in Path(folder).iterdir()) for folder in folders]
        for name, folders in request["inputs"].items()
    }
    files = {"inputs.json": json.dumps(inputs), f"{stage}.txt": f"{stage} {request['shard']}"}
    if stage in ("evaluate", "export", "generator"):
        name = request["recipe"].get("domain", request["recipe"])["name"]
        files["report.json"] = json.dumps({"domain": name, "gap": None})
    if stage == "export":
        files |= {
            "encoder/open_clip_config.json": "{}",
            "encoder/image_encoder.onnx": "weights",
            "encoder/README.md": "#",
        }
    listed = []
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
        sha = hashlib.sha256(content.encode()).hexdigest()
        listed.append({"name": name, "sha256": sha, "size": len(content)})
    manifest = {"stage": stage, "shard": request["shard"], "key": request["key"], "seconds": 0.1, "files": listed}
    (out / "manifest.json").write_text(json.dumps({**manifest, "versions": {}, "seed": 0, "summary": summary}))
