"""The plots of the photo benchmark."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.photos.arms import ARMS

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "stillroom"  # the same results give the same file
MARKERS = "osD^v"


def plot_gap(results: list[dict[str, Any]], file: Path) -> None:
    """Real against synthetic accuracy: an arm far to the right of the others has learnt what only synthetic has."""
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    figure, axes = pyplot.subplots(figsize=(8.5, 5), layout="constrained")
    domains = list(dict.fromkeys(one["domain"] for one in results))
    names = []
    for number, arm in enumerate(ARMS):
        colour = matplotlib.colormaps["tab20"](number)
        if any(one["arm"] == arm for one in results):
            names.append(Line2D([], [], marker="o", linestyle="", color=colour, label=arm))
        for name, marker in zip(domains, MARKERS, strict=False):
            chosen = [one for one in results if (one["domain"], one["arm"]) == (name, arm)]
            if chosen:
                x, y = (_mean(chosen, key) for key in ("student_synthetic", "student_real"))
                axes.scatter(x, y, marker=marker, color=colour, s=45)
    figure.legend(handles=names, loc="outside right upper", frameon=False)
    for name, marker in zip(domains, MARKERS, strict=False):
        axes.scatter([], [], marker=marker, color="grey", label=name)
    axes.set(xlabel="top-1 on held-out synthetic images, %", ylabel="top-1 on real photos, %")
    _save(figure, axes, file)


def plot_sizes(results: list[dict[str, Any]], file: Path) -> None:
    """Accuracy on real photos against the student's parameters, a line for each domain, dashed: its teacher."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    domains = list(dict.fromkeys(one["domain"] for one in results))
    for number, (name, marker) in enumerate(zip(domains, MARKERS, strict=False)):
        chosen = [one for one in results if one["domain"] == name]
        sizes = sorted({one["params"] for one in chosen})
        best = [max(_mean([one], "student_real") for one in chosen if one["params"] == size) for size in sizes]
        axes.plot([size / 1e6 for size in sizes], best, marker=marker, color=f"C{number}", label=name)
        axes.axhline(_mean(chosen, "teacher_real"), color=f"C{number}", linestyle="--", linewidth=0.8)
    axes.set(xlabel="parameters of the student, millions", ylabel="top-1 on real photos, %", xscale="log")
    _save(figure, axes, file)


def _mean(results: list[dict[str, Any]], key: str) -> float:
    return 100 * statistics.fmean(one[key] for one in results)


def _save(figure: Any, axes: Any, file: Path) -> None:
    from matplotlib import pyplot

    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
