"""Latency of exported files in onnxruntime, on the machine at hand."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import numpy as np

from distillation.export.onnx_files import open_session, run_session

BATCHES = (1, 32)
WARM_UP = 3
SECONDS = 2.0
FEWEST_RUNS, MOST_RUNS = 8, 200


def thread_count() -> int:
    """Two, or the cores this process may use if there are fewer."""
    return min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def machine() -> str:
    """The processor's name and the threads that latency is measured with."""
    name = platform.processor() or platform.machine()
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores, onnxruntime with {thread_count()} threads"


def measure_latency(path: Path, precision: str, image_size: int) -> list[dict[str, str | int | float]]:
    """One row for each batch size: median and 95th percentile in milliseconds for the whole batch."""
    session = open_session(path, thread_count())
    rows: list[dict[str, str | int | float]] = []
    for batch in BATCHES:
        pixels = np.random.default_rng(0).standard_normal((batch, 3, image_size, image_size), dtype=np.float32)
        for _ in range(WARM_UP):
            run_session(session, pixels)
        times: list[float] = []
        while len(times) < FEWEST_RUNS or (sum(times) < SECONDS and len(times) < MOST_RUNS):
            began = time.perf_counter()
            run_session(session, pixels)
            times.append(time.perf_counter() - began)
        p50, p95 = 1000 * np.percentile(times, [50, 95])
        rows.append(
            {
                "file": path.name,
                "precision": precision,
                "batch": batch,
                "p50_ms": round(float(p50), 3),
                "p95_ms": round(float(p95), 3),
            }
        )
    return rows
