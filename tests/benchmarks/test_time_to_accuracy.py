"""The race to an accuracy, whole, with few images, few steps and few measurements."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import harness, time_to_accuracy
from benchmarks.time_to_accuracy import seconds_to
from tests.benchmarks.test_photos import write_data

ARMS = {"open_clip", "open_clip, tuned", "online L2", "online L2, tuned", "ours, L2 alone", "ours, one view", "ours"}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes; the benchmark measures three times and writes into the test's folder."""
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(time_to_accuracy, "MEASUREMENTS", 3)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "domain: {name: fruit, classes: [orange, lemon, banana]}\n"
        "data: {filter: {max_attempts: 20}, prompts: {dimensions: {setting: [at night, in daylight]}}}\n"
        "training: {losses: {l2: 1, crd: 0.5}}\n"
    )
    return path


def test_the_race(tmp_path: Path, recipe: Path) -> None:
    write_data(tmp_path)
    ratios = time_to_accuracy.main(
        recipe, tmp_path, images_per_class=8, measured_per_class=8, epochs=1, batch_size=8, runs=2, threads=1
    )
    written = json.loads((tmp_path / "time_to_accuracy.json").read_text(encoding="utf-8"))
    assert written["curves"].keys() == written["seconds"].keys() == ARMS
    assert written["ends_with"].keys() == {"generated", "photos"}
    for judge, ends in written["ends_with"].items():
        assert ends.keys() == ARMS and all(0 <= share <= 1 for shares in ends.values() for share in shares)
        by_judge = all(ends[name] == [curve[-1][1] for curve in written["curves"][name]] for name in ARMS)
        assert by_judge == (judge == "photos"), "photos judge where there are some"
    starts = {name: [curve[0] for curve in curves] for name, curves in written["curves"].items()}
    for name, curves in written["curves"].items():
        assert [len(curve) for curve in curves] == [4, 4]
        assert all(earlier[0] < later[0] for curve in curves for earlier, later in pairwise(curve))
        cached = name.startswith("ours")
        assert all((seconds > 0) == cached for seconds, _ in starts[name]), "only ours work before their first step"
    assert len({accuracy for arms in starts.values() for _, accuracy in arms}) == 1, "all arms start alike"
    assert all(run[-1] != other[-1] for run, other in [written["curves"]["ours"]]), "runs differ"
    assert written["curves"]["ours"][0][-1] != written["curves"]["ours, L2 alone"][0][-1], "other losses"
    final = written["final_accuracy"]
    for run, mark in enumerate(final):
        assert mark == min(written["ends_with"]["photos"][name][run] for name in time_to_accuracy.L2_ARMS)
    assert None not in written["seconds"]["ours, L2 alone"]["1.0"], "they reach what the lowest of them ends with"
    for own in time_to_accuracy.OURS:
        both = {name: written["seconds"][name]["1.0"] + written["seconds"][own]["1.0"] for name in ARMS}
        reached = {name for name in ARMS - set(time_to_accuracy.OURS) if None not in both[name]}
        assert reached == {name for name in ARMS if f"{own} than {name} to 100%" in ratios}
    assert all(one.low > 0 for one in ratios.values())


def test_seconds_to() -> None:
    curve = [(1.0, 0.9), (2.0, 0.4), (3.0, 0.6), (4.0, 0.5)]
    assert seconds_to(curve, 0.4) == 2.0 and seconds_to(curve, 0.5) == 3.0 and seconds_to(curve, 0.7) is None


def test_features_of_another_teacher_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_accuracy, "SAME_FEATURES", 1.01)
    with pytest.raises(SystemExit, match="do not learn the same features"):
        time_to_accuracy.main(recipe, images_per_class=8, measured_per_class=2, epochs=1, runs=1, threads=1)
