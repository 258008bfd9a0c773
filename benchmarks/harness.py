"""What every benchmark needs: calibration, interleaved rounds, ratios with intervals, a table and a JSON file.

All arms of a comparison run in one process, in turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from models.teachers import bf16_is_native

OUT = Path("build/bench")
console = Console()
MATMUL_SIDE, COPY_BYTES = {"cpu": 2048, "cuda": 8192}, {"cpu": 2**28, "cuda": 2**32}
"""On a GPU so large that launching and waiting do not count."""
VECTOR_UNITS = {"AMX": "amx_bf16", "AVX512-BF16": "avx512_bf16", "AVX512": "avx512_f", "AVX2": "avx2"}
"""From fast to slow, with torch's names."""


class Ratio(NamedTuple):
    """A median of per-round ratios with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def matmul_flops(dtype: torch.dtype, device: str = "cpu", *, seconds: float = 1.0) -> float:
    """Best floating-point operations per second of a square matrix product with this machine's threads."""
    side = MATMUL_SIDE[device]
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def fastest_type(device: str = "cpu") -> torch.dtype:
    """In which matrix products are fastest here; bf16 that is emulated is hundreds of times slower than fp32."""
    return torch.bfloat16 if bf16_is_native(torch.device(device)) else torch.float32


def copy_rate(device: str = "cpu", *, seconds: float = 1.0) -> float:
    """Best bytes per second of a plain copy with this machine's threads (each byte is read once and written once)."""
    size = COPY_BYTES[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return size / best


def synchronize(device: str = "cpu") -> None:
    """Wait for a GPU's queue; does nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def interleaved(arms: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each arm in each round. One round of every arm first, unmeasured.

    Each round has an order of its own: an arm that always followed the same one would inherit its memory and caches.
    """
    names, chooser = list(arms), random.Random(0)
    for name in names:
        arms[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in chooser.sample(names, len(names)):
            synchronize(device)
            start = time.perf_counter()
            arms[name]()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float], *, draws: int = 4000) -> Ratio:
    """How many times ``fast`` is faster, from the seconds of rounds run side by side."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    chooser = random.Random(0)
    medians = sorted(statistics.median(chooser.choices(ratios, k=len(ratios))) for _ in range(draws))
    return Ratio(statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    """Name and best vector unit: clouds sell several generations by one name, and only some multiply bf16."""
    found = torch.cpu.get_capabilities()
    name = found.get("cpu_name") or platform.processor() or platform.machine()
    return ", ".join([name, *[unit for unit, flag in VECTOR_UNITS.items() if found.get(flag)][:1]])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{item:,.1f}" if isinstance(item, float) else str(item) for item in row))
    console.print(table)


def write_json(name: str, content: Mapping[str, Any]) -> Path:
    """Write ``build/bench/NAME.json`` with the machine's description."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **content}, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {path}")
    return path
