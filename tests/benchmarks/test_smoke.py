"""Ratios against the committed ones: what is called slower, what is written, and that every benchmark can be called."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import typer

from benchmarks import harness, smoke
from benchmarks.harness import Ratio


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Ratio]:
    """What the only benchmark measures; the test changes it."""
    ratios = {"peer": Ratio(4.0, 3.9, 4.1), "tuned peer": Ratio(2.0, 1.9, 2.2)}
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(smoke, "COMMITTED", tmp_path / "ratios.json")
    monkeypatch.setattr(smoke, "SIZES", {"generate": {"images": 4}})
    monkeypatch.setattr("benchmarks.generate.main", lambda images: ratios)
    return ratios


def test_a_ratio_that_fell_is_called_slower(measured: dict[str, Ratio]) -> None:
    assert smoke.main(write=True) == []
    measured["peer"] = Ratio(3.7, 3.5, 3.8)  # lower, but not by a tenth
    measured["tuned peer"] = Ratio(1.5, 1.2, 1.79)
    assert smoke.main() == ["generate: tuned peer"]
    measured["tuned peer"] = Ratio(1.5, 1.2, 1.81)  # the interval still reaches what is tolerated
    assert smoke.main() == []


def test_only_write_changes_what_is_committed(measured: dict[str, Ratio]) -> None:
    smoke.main()
    assert not smoke.COMMITTED.exists()
    smoke.main(write=True)
    before = smoke.COMMITTED.read_text(encoding="utf-8")
    [content] = json.loads(before)
    assert content["ratios"]["generate"]["peer"] == {"median": 4.0, "low": 3.9, "high": 4.1}
    assert content["machine"].keys() >= {"cpu", "threads", "gpu"}
    del measured["tuned peer"]
    measured["new peer"] = Ratio(9.0, 8.0, 10.0)
    assert smoke.main() == []
    assert smoke.COMMITTED.read_text(encoding="utf-8") == before
    assert smoke.verdict(None, Ratio(1, 1, 1)) == smoke.MISSING and smoke.verdict(Ratio(1, 1, 1), None) == ""


def test_the_command_warns_and_succeeds(measured: dict[str, Ratio], capsys: pytest.CaptureFixture[str]) -> None:
    smoke.main(write=True)
    measured["peer"] = Ratio(1.0, 0.9, 1.1)
    app = typer.Typer()
    app.command()(smoke.main)
    app([], standalone_mode=False)
    assert "slower" in capsys.readouterr().out
    with pytest.raises(typer.BadParameter, match="there are generate"):
        smoke.main(only=["speed"])


def test_each_machine_has_ratios_of_its_own(measured: dict[str, Ratio], capsys: pytest.CaptureFixture[str]) -> None:
    smoke.main(write=True)
    [other] = json.loads(smoke.COMMITTED.read_text(encoding="utf-8"))
    other["machine"]["cpu"] = "another processor"
    smoke.COMMITTED.write_text(json.dumps([other]), encoding="utf-8")
    measured["peer"] = Ratio(1.0, 0.9, 1.1)
    assert smoke.main() == [], "nothing to compare with"
    assert "only of: another processor" in " ".join(capsys.readouterr().out.split())
    smoke.main(write=True)
    kept, ours = json.loads(smoke.COMMITTED.read_text(encoding="utf-8"))
    assert kept == other and ours["ratios"]["generate"]["peer"]["median"] == 1.0
    measured["peer"] = Ratio(0.5, 0.4, 0.6)
    assert smoke.main() == ["generate: peer"]


@pytest.mark.parametrize("name", smoke.SIZES)
def test_every_benchmark_takes_its_size_and_returns_ratios(name: str) -> None:
    signature = inspect.signature(smoke.main_of(name))
    signature.bind(**smoke.SIZES[name])
    assert signature.return_annotation == "dict[str, Ratio]"


def test_what_is_committed_is_measured() -> None:
    if smoke.COMMITTED.is_file():
        for one in json.loads(smoke.COMMITTED.read_text(encoding="utf-8")):
            assert one["ratios"].keys() <= smoke.SIZES.keys()
