"""The demo, step by step: every step goes through the command `stillroom`, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo import use_onnx
from demo.command_line import CommandLine
from demo.grid import draw_grid
from demo.photos import some_photos
from demo.report_picture import draw_report

RECIPE = Path("recipes/demo.yaml")
TOLERANCE = 1e-3
"""Largest difference allowed between onnxruntime and open_clip (both float32), and between either and the API."""
SHARED_STAGES = ("prompts", "generate")
GOAL_TIMES_FASTER = 3.0


@dataclass
class Findings:
    """What the demo saw. `checks` must all hold; `first` and `second` are the two jobs."""

    first: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] = field(default_factory=dict)
    second_report: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)


def run_demo(command: CommandLine, out: Path, real: Path | None, second_size: str) -> Findings:
    """All steps, in order.

    Args:
        out: where everything is written.
        real: photos to measure on, a parquet file, zip or folder.
    """
    found = Findings()
    with_photos: list[str] = []
    if real is not None:
        say("Real photos are uploaded, to measure the encoder on. It is never trained on them.")
        dataset = command.json("datasets", "add", str(real), "--name", "real photos")
        print(f"{dataset['id']}: {dataset['images']:,} photos of {len(dataset['classes'])} classes")
        with_photos = ["--dataset", dataset["id"]]

    say(f"A domain in words, {RECIPE}, becomes an encoder.")
    encoder = out / "encoder"
    found.first = command.json("submit", str(RECIPE), *with_photos, "--wait", "--download", str(encoder))
    job = found.first["id"]
    command.show("report", job)
    found.report = command.json("report", job)
    draw_report(found.report, out / "report.svg")
    found.checks |= check_report(found.report, with_real=real is not None)

    say("Some of the synthetic images it learnt from.")
    samples = command.json("samples", job, str(out / "samples"))
    draw_grid(samples, out / "samples", out / "grid.png")
    print(f"{len(samples)} images; all of them in one picture: {out / 'grid.png'}")

    say("The downloaded encoder, used without the service: in onnxruntime, and in open_clip.")
    shown = first_of_each_class(samples, out / "samples")
    if real is not None:
        shown += some_photos(real, [name for _, name in shown], out / "photos")
    asked = shown[:: max(1, len(shown) // 4)]
    answers = command.json("classify", job, *(str(path) for path, _ in asked))
    found.agreement = compare(encoder, shown, answers)
    found.checks |= {
        "onnxruntime and open_clip agree": found.agreement["onnx_vs_open_clip"]["max_abs_difference"] < TOLERANCE
        and found.agreement["onnx_vs_open_clip"]["same_class"],
        "the API's classify agrees": found.agreement["api_vs_onnx_max_abs_difference"] < TOLERANCE,
    }

    say(
        f"The same domain again, for a student of size {second_size}: the images and the teacher's features are reused."
    )
    found.second = command.json("submit", str(RECIPE), *with_photos, "--size", second_size, "--wait")
    command.show("show", found.second["id"])
    found.second_report = command.json("report", found.second["id"])
    found.checks["the second job reuses all images and features"] = all(
        stage["reused"] == stage["tasks"] for stage in found.second["stages"] if stage["stage"] in SHARED_STAGES
    )
    return found


def check_report(report: dict[str, Any], *, with_real: bool) -> dict[str, bool]:
    twice_chance, held_out = 2 / report["classes"], report["synthetic"]
    return {
        "the student is right more than twice as often as chance on held-out images": held_out["student"]["acc1"]
        > twice_chance,
        "the student agrees with its teacher, more than twice as often as chance": held_out["agreement"] > twice_chance,
        "the student is smaller than the teacher's image tower": report["student"]["params"]
        < report["teacher"]["params_image_tower"],
    } | ({"real photos were measured": bool(report["real"])} if with_real else {})


def first_of_each_class(samples: Sequence[dict[str, Any]], folder: Path) -> list[tuple[Path, str]]:
    by_class = {sample["class"]: folder / sample["file"] for sample in reversed(samples)}
    return [(path, name) for name, path in sorted(by_class.items())]


def compare(encoder: Path, shown: Sequence[tuple[Path, str]], answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Classify the same images in onnxruntime and open_clip, print what they see, and measure how far they differ."""
    from demo import use_open_clip  # brings torch, seconds of import: not before it is needed

    paths = [path for path, _ in shown]
    labels = use_onnx.labels(encoder)
    onnx_features = use_onnx.run(encoder / "image_encoder.onnx", paths)
    onnx_scores = use_onnx.run(encoder / "classifier.onnx", paths)
    clip_features, clip_scores, _ = use_open_clip.run(encoder, paths)
    for (path, truth), row in zip(shown, onnx_scores, strict=True):
        best = int(row.argmax())
        kind = "real photo" if path.parent.name == "photos" else "synthetic"
        verdict = "" if labels[best] == truth else "  wrong"
        print(f"  {kind:>10} of {truth:<16} {labels[best]:<16} {row[best]:6.1%}{verdict}")
    by_path = {str(path): row for path, row in zip(paths, onnx_scores, strict=True)}
    api = max(
        abs(float(by_path[answer["image"]][labels.index(item["label"])]) - item["probability"])
        for answer in answers
        for item in answer["probabilities"]
    )
    difference = largest(onnx_features, clip_features)
    print(f"{len(paths)} images: onnxruntime and open_clip differ by {difference:.1e} at most, the API by {api:.1e}.")
    return {
        "images_compared": len(paths),
        "onnx_vs_open_clip": {
            "max_abs_difference": difference,
            "max_abs_difference_probabilities": largest(onnx_scores, clip_scores),
            "same_class": bool((onnx_scores.argmax(1) == clip_scores.argmax(1)).all()),
        },
        "api_vs_onnx_max_abs_difference": api,
    }


def largest(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max())


def say(text: str) -> None:
    print(f"\n{text}", flush=True)
