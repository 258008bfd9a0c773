"""Whatever a child prints, the supervisor goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from state.claims import claim_task
from state.database import session_scope
from tests.workers.conftest import House
from workers.failures import failure_of
from workers.lease import Lease
from workers.narration import LOG_EVENTS, Narration

Reading = tuple[House, str, Narration]


@pytest.fixture
def reading(house: House, tmp_path: Path) -> Reading:
    job_id = house.submit()
    with session_scope(house.engine) as session:
        claim = claim_task(session, house.tasks(job_id)[0].id, "me", 60)
    assert claim
    return house, job_id, Narration(house.engine, claim, Lease(house.engine, claim, 60, 10), house.blobs, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "Downloading shards: 100%|##########| 2/2",
        "{not json",
        "[1, 2]",
        "null",
        '{"event": "progress", "done": "many", "total": 3}',
        '{"event": "checkpoint", "step": 1}',
        '{"event": "unheard of"}',
        "a NUL \0 and \ud800 a lone surrogate".encode("utf-8", "replace").decode(),
        "x" * 100_000,
    ],
)
def test_odd_lines_are_kept_as_log(reading: Reading, line: str) -> None:
    house, job_id, narration = reading
    narration.read(line)
    [event] = house.events(job_id, "log")
    assert event.message == line.replace("\0", "")[:2000]
    assert narration.error is None


def test_file_names_that_are_no_utf8(reading: Reading) -> None:
    house, job_id, narration = reading
    name = json.dumps(os.fsdecode(b"caf\xe9.tar") + "\0")
    narration.read(f'{{"event": "warning", "code": "odd", "message": {name}}}')
    narration.read(f'{{"event": "progress", "done": 1, "total": 2, "metrics": {{{name}: 1}}}}')
    assert [event.message for event in house.events(job_id, "warning")] == ["caf?.tar"]
    [progress] = house.events(job_id, "progress")
    assert progress.data["metrics"] == {"caf?.tar": 1}


def test_numbers_that_json_lacks_become_null(reading: Reading) -> None:
    house, job_id, narration = reading
    narration.read(
        '{"event": "progress", "done": 1, "total": 2, "unit": "steps", "metrics": {"loss": NaN, "a": Infinity}}'
    )
    [event] = house.events(job_id, "progress")
    assert event.data["metrics"] == {"loss": None, "a": None}


def test_a_flood_of_lines_is_cut(reading: Reading) -> None:
    house, job_id, narration = reading
    for number in range(LOG_EVENTS + 20):
        narration.read(f"line {number}")
    assert len(house.events(job_id, "log")) == LOG_EVENTS


def test_progress_is_throttled_but_the_end_is_told(reading: Reading) -> None:
    house, job_id, narration = reading
    for done in range(51):
        narration.read(f'{{"event": "progress", "done": {done}, "total": 50, "unit": "images"}}')
    told = [event.data["done"] for event in house.events(job_id, "progress")]
    assert told[0] == 0 and told[-1] == 50 and len(told) < 40


def test_a_checkpoint_that_is_not_there_is_a_warning(reading: Reading) -> None:
    house, job_id, narration = reading
    for path in ("checkpoints/000001", "../../etc"):
        narration.read(f'{{"event": "checkpoint", "step": 1, "path": "{path}", "metrics": {{}}}}')
    assert [event.data["code"] for event in house.events(job_id, "warning")] == ["checkpoint_not_stored"] * 2


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(-9, "out_of_memory", "memory"), (-11, "internal", "Segmentation"), (3, "internal", "status 3")],
)
def test_every_end_has_an_explanation(status: int, code: str, word: str) -> None:
    failure = failure_of("distil", status, None, ["last words"])
    assert failure.error["code"] == code and word in failure.error["message"] and failure.error["hint"]
    assert failure.error["stderr"] == ["last words"] and failure.retryable


def test_what_cannot_be_mended_is_not_retried() -> None:
    told = {"event": "error", "code": "weights_gated", "message": "gated", "hint": "ask", "field": "teacher.model"}
    failure = failure_of("distil", 1, told, [])
    assert not failure.retryable and failure.error["field"] == "teacher.model"
    assert failure_of("distil", 1, {**told, "code": "hub_unreachable"}, []).retryable
