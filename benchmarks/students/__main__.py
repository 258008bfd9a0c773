"""The catalogue's students in use, on the machine at hand: size, cost, latency, and the Pareto front for the presets.

    python -m benchmarks.students [--only hgnetv2_b0 ...] [--size 224] [--rounds 7] [--threads 2] [--out docs/results]

Every network is written by the product's export and run by onnxruntime in fp32 and int8, at batch 1 and 32, in turns
with its peers: the image towers of ViT-B/32 and MobileCLIP2-S0, exported the same way. onnxruntime has no bf16
convolutions on a CPU, so bf16 is PyTorch's, eager; on the GPU where there is one. Weights are random: speed and size do
not depend on them, but what int8 costs in accuracy does. So the verdict of the product's gate (cosine of at least 0.99,
half a point of top-1) is one about the architecture's arithmetic, and the export stage judges every trained student
again.

The front is of ImageNet top-1, as timm reports it for its own weights (see `distillation/catalogue.py`), against fp32
latency at batch 1. One run writes `students.json` and `students.md`; nothing of an earlier run is kept.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

from benchmarks.harness import console, interleaved, ratio, write_json
from benchmarks.students import networks
from benchmarks.students.networks import Candidate, Exported
from benchmarks.students.results import pareto_front, show, write_results
from distillation.catalogue import FULL_STUDENTS
from distillation.export.onnx_files import open_session, run_session

BATCHES = (1, 32)
SLICE_SECONDS = 0.1
"""How long one arm runs in one round, at least once."""
Run = Callable[[], object]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only this student (may be repeated).")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Image side in pixels, instead of each one's own.")] = None,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results"),
) -> None:
    if unknown := set(only or ()) - {row.architecture for row in FULL_STUDENTS}:
        raise typer.BadParameter(f"the catalogue has no {', '.join(sorted(unknown))}", param_hint="--only")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flops = networks.matmul_flops(threads)
    arms: dict[int, dict[str, Run]] = {batch: {} for batch in BATCHES}
    found: list[tuple[Candidate, Exported]] = []
    with tempfile.TemporaryDirectory(prefix="bench-students-") as folder:
        for candidate in networks.candidates(only or (), size):
            console.print(f"exporting {candidate.name}")
            files = networks.export(candidate, Path(folder))
            for batch in BATCHES:
                for precision, run in _runs(candidate, files, batch, threads, device).items():
                    arms[batch][f"{candidate.name} {precision}"] = run
            candidate.tower.to("meta")  # its weights are in the sessions now
            found.append((candidate, files))
        seconds = {batch: _in_turns(runs, rounds, device.type) for batch, runs in arms.items()}
        flops = max(flops, networks.matmul_flops(threads))
        whole = networks.whole_params()
        rows = [_row(candidate, files, found[0][0].params, whole, seconds, flops) for candidate, files in found]
    front = pareto_front([row for row in rows if row["top1"] is not None])
    for row in rows:
        row["on_front"] = row["name"] in front
    content = {"threads": threads, "rounds": rounds, "bf16_on": device.type, "matmul_flops": flops, "students": rows}
    show(rows)
    write_results(out, write_json("students", content))


def _runs(candidate: Candidate, files: Exported, batch: int, threads: int, device: torch.device) -> dict[str, Run]:
    """What is timed, by precision; a network that PyTorch cannot run in bf16 has no such arm."""
    pixels = networks.pictures(batch, candidate.image_size, 2)
    array, half = pixels.numpy(), pixels.to(device, torch.bfloat16, memory_format=torch.channels_last)
    runs: dict[str, Run] = {}
    for precision, path in (("fp32", files.fp32), ("int8", files.int8)):
        if path is not None:
            session = open_session(path, threads)
            runs[precision] = lambda session=session: run_session(session, array)  # type: ignore[misc]
    network = networks.in_bf16(candidate, device)

    @torch.inference_mode()
    def bf16() -> object:
        with torch.autocast(device.type, torch.bfloat16):  # for what a network makes in fp32 on its way
            return network(half)

    with suppress(RuntimeError):
        bf16()
        runs["bf16"] = bf16
    return runs


def _in_turns(runs: dict[str, Run], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of one run, in each round; fast ones run many times in their turn."""
    counts: dict[str, int] = {}
    for name, run in runs.items():
        run()
        began = perf_counter()
        run()
        counts[name] = max(1, round(SLICE_SECONDS / (perf_counter() - began)))

    def repeated(run: Run, count: int) -> Run:
        return lambda: [run() for _ in range(count)]

    seconds = interleaved({name: repeated(run, counts[name]) for name, run in runs.items()}, rounds, device)
    return {name: [value / counts[name] for value in values] for name, values in seconds.items()}


def _row(
    candidate: Candidate,
    files: Exported,
    tower: int,
    whole: int,
    seconds: dict[int, dict[str, list[float]]],
    flops: float,
) -> dict[str, Any]:
    """One network's figures; ratios say how many times it is faster than ViT-B/32, precision against precision."""

    def faster(precision: str, than: str) -> dict[str, float] | None:
        slow, fast = seconds[1].get(f"{networks.PEERS[0]} {than}"), seconds[1].get(f"{candidate.name} {precision}")
        return ratio(slow, fast)._asdict() if slow and fast else None

    def milliseconds(values: Sequence[float] | None) -> float | None:
        return 1000 * statistics.median(values) if values else None

    latency = {
        precision: {str(batch): milliseconds(seconds[batch].get(f"{candidate.name} {precision}")) for batch in BATCHES}
        for precision in ("fp32", "int8", "bf16")
    }
    return {
        "name": candidate.name,
        "image_size": candidate.image_size,
        "preset": candidate.preset,
        "params": candidate.params,
        "saving_vs_image_tower": 1 - candidate.params / tower,
        "saving_vs_whole": 1 - candidate.params / whole,
        "macs": candidate.macs,
        "top1": candidate.top1,
        "bytes": {"fp32": files.fp32.stat().st_size, "int8": files.int8.stat().st_size if files.int8 else None},
        "difference_from_torch": files.difference,
        "int8_gate": asdict(files.verdict),
        "latency_ms": latency,
        "share_of_matmul_limit": 2 * candidate.macs / flops / (latency["fp32"]["1"] or float("nan")) * 1000,
        "faster": {
            "fp32 / fp32": faster("fp32", "fp32"),
            "int8 / int8": faster("int8", "int8"),
            "int8 / fp32": faster("int8", "fp32"),
        },
    }


if __name__ == "__main__":
    typer.run(main)
