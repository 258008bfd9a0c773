"""The results of ``python -m benchmarks.students``: a table on the screen, a page and its JSON file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console, print_table
from distillation.protocol import write_atomically

GOALS = {"fp32 / fp32": 13, "int8 / int8": 10, "int8 / fp32": 25}
"""How many times faster than ViT-B/32 a student should be at batch 1."""
COLUMNS = (
    "network", "preset", "M params", "fewer than tower, whole", "GMAC", "top-1", "MB fp32, int8",
    "batch 1: fp32", "int8", "bf16", "batch 32: fp32", "int8", "bf16", "faster", "limit", "front",
)  # fmt: skip


def pareto_front(rows: Sequence[dict[str, Any]]) -> set[str]:
    """Names of the rows that no other beats: none is as accurate and as fast, and better in one of both."""

    def beaten(row: dict[str, Any]) -> bool:
        return any(
            other["top1"] >= row["top1"]
            and _fp32(other) <= _fp32(row)
            and (other["top1"], _fp32(other)) != (row["top1"], _fp32(row))
            for other in rows
        )

    return {row["name"] for row in rows if not beaten(row)}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the students, and the presets against the goals."""
    print_table("students: milliseconds of a batch", COLUMNS, [_cells(row) for row in rows])
    for row in rows:
        if row["preset"]:
            print_table(
                f"preset {row['preset']}: {row['name']}{'' if row['on_front'] else ', NOT on the front'}",
                ["faster than ViT-B/32 at batch 1", "measured", "goal"],
                [[name, _interval(row["faster"][name]), f">= {goal}x"] for name, goal in GOALS.items()],
            )


def write_results(out: Path, measured: Path) -> None:
    """Copy the figures to ``out`` and write the page made from them."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(measured, out / "students.json")
    write_atomically(out / "students.md", page(json.loads(measured.read_text(encoding="utf-8"))))
    console.print(f"written: {out / 'students.json'}, {out / 'students.md'}")


def page(content: dict[str, Any]) -> str:
    """All tables in Markdown."""
    machine, rows = content["machine"], content["students"]
    presets = [row for row in rows if row["preset"]]
    lines = [
        "# Students in use",
        "",
        "Written by `python -m benchmarks.students`; every figure is in `students.json`. Weights are random.",
        "Parameters are backbone and projection; `fewer` is against ViT-B/32's image tower and the whole CLIP.",
        "Milliseconds are the median for a whole batch: fp32 and int8 in onnxruntime, bf16 in PyTorch, eager, for",
        "onnxruntime has no bf16 convolutions on a CPU. int8 in brackets did not pass the export's gate here: with",
        "random weights that speaks of the architecture's arithmetic only, and every trained student is judged again.",
        "`faster` is fp32 against ViT-B/32's fp32 at batch 1, `limit` the share of onnxruntime's own fp32 matmul rate.",
        "`front`: no other student is as fast and as accurate, by the ImageNet top-1 that timm reports.",
        "",
        f"{machine['cpu']}, {content['threads']} threads, GPU: {machine['gpu'] or 'none'}; "
        f"bf16 on {content['bf16_on']}; fp32 matmul {content['matmul_flops'] / 1e9:.0f} GFLOP/s; "
        f"{content['rounds']} rounds in turns; torch {machine['torch']}, Python {machine['python']}.",
        "",
        *_markdown(COLUMNS, [_cells(row) for row in sorted(rows, key=_fp32)]),
        "",
        "## The presets at batch 1, times faster than ViT-B/32",
        "",
        *_markdown(
            ("preset", "network", "front", *(f"{name} (goal {goal})" for name, goal in GOALS.items())),
            [
                [row["preset"], row["name"], _mark(row), *(_interval(row["faster"][name]) for name in GOALS)]
                for row in presets
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    latency, int8 = row["latency_ms"], row["bytes"]["int8"]
    brackets = "{}" if row["int8_gate"]["kept"] else "({})"

    def milliseconds(batch: str) -> list[str]:
        fp32, int8, bf16 = (_number(latency[name][batch]) for name in ("fp32", "int8", "bf16"))
        return [fp32, brackets.format(int8) if int8 else "", bf16]

    return [
        row["name"],
        row["preset"] or "",
        f"{row['params'] / 1e6:.2f}",
        f"{row['saving_vs_image_tower']:.1%}, {row['saving_vs_whole']:.1%}",
        f"{row['macs'] / 1e9:.2f}",
        _number(row["top1"]),
        f"{row['bytes']['fp32'] / 1e6:.1f}" + (f", {int8 / 1e6:.1f}" if int8 else ""),
        *milliseconds("1"),
        *milliseconds("32"),
        f"{row['faster']['fp32 / fp32']['median']:.1f}",
        f"{row['share_of_matmul_limit']:.0%}",
        _mark(row),
    ]


def _fp32(row: dict[str, Any]) -> float:
    return float(row["latency_ms"]["fp32"]["1"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.1f} ({value['low']:.1f} to {value['high']:.1f})"


def _mark(row: dict[str, Any]) -> str:
    return "yes" if row["on_front"] else ""


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
