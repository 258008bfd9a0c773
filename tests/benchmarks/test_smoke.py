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
    content = json.loads(before)
    assert content["ratios"]["generate"]["peer"] == {"median": 4.0, "low": 3.9, "high": 4.1}
    assert content["machine"].keys() >= {"cpu", "threads", "gpu"}
    del measured["tuned peer"]
    measured["new peer"] = Ratio(9.0, 8.0, 10.0)
    assert smoke.main() == []
    assert smoke.COMMITTED.read_text(encoding="utf-8") == before
    assert smoke.verdict(None, Ratio(1, 1, 1)) == smoke.MISSING and smoke.verdict(Ratio(1, 1, 1), None) == ""


def test_the_command_warns_and_succeeds(measured: dict[str, Ratio], capsys: pytest.CaptureFixture[str]) -> None:
    smoke.main(write=True)
    committed = json.loads(smoke.COMMITTED.read_text(encoding="utf-8"))
    committed["machine"]["cpu"] = "another processor"
    smoke.COMMITTED.write_text(json.dumps(committed), encoding="utf-8")
    measured["peer"] = Ratio(1.0, 0.9, 1.1)
    app = typer.Typer()
    app.command()(smoke.main)
    app([], standalone_mode=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "slower" in printed and "another processor" in printed
    with pytest.raises(typer.BadParameter, match="there are generate"):
        smoke.main(only=["speed"])


@pytest.mark.parametrize("name", smoke.SIZES)
def test_every_benchmark_takes_its_size_and_returns_ratios(name: str) -> None:
    signature = inspect.signature(smoke.main_of(name))
    signature.bind(**smoke.SIZES[name])
    assert signature.return_annotation == "dict[str, Ratio]"


def test_what_is_committed_is_measured() -> None:
    if smoke.COMMITTED.is_file():
        assert json.loads(smoke.COMMITTED.read_text(encoding="utf-8"))["ratios"].keys() <= smoke.SIZES.keys()
