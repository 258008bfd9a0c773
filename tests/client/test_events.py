"""The event stream: parsing, and going on after a break."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest
from stillroom.client import Stillroom
from stillroom.errors import JobFailed, NotFound, Unreachable
from stillroom.events import Message, follow, read_messages, split_lines

from tests.client.faulty import JOB, Faults, event


def test_messages_are_parsed() -> None:
    lines = [
        ": ping",
        "",
        "retry: 250",
        "",
        "id: 7",
        "event: log",
        "data: one",
        "data:two",
        "",
        "data: three",
        "",
        "data: cut",
    ]
    assert list(read_messages(lines)) == [
        Message("", "message", "", 0.25),
        Message("7", "log", "one\ntwo", None),
        Message("7", "message", "three", None),
    ]


def test_lines_end_as_the_standard_says() -> None:
    pieces = ["a\u2028b\u2029c\x85", "d\r", "\ne\r", "f\r", "\r\n", "\n", "g\rh\ni\r\nj"]
    assert list(split_lines(pieces)) == ["a\u2028b\u2029c\x85d", "e", "f", "", "", "g", "h", "i"]


def test_an_event_with_line_separators_from_a_server_that_sends_them_raw(url: str, faults: Faults) -> None:
    text = "a\u2028b\u2029c\x85d"
    faults.events[0] = event(1, text=text)
    with Stillroom(url) as service:
        assert next(service.follow(JOB))["data"] == {"text": text}


def test_all_events_and_then_the_end(url: str, faults: Faults) -> None:
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB)] == [1, 2, 3]
    assert faults.last_event_ids == [None]


def test_cut_stream_goes_on_with_last_event_id(url: str, faults: Faults) -> None:
    faults.stream_cuts = [1, 1]
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB)] == [1, 2, 3]
    assert faults.last_event_ids == [None, "1", "2"]


def test_stream_cut_before_the_first_event(url: str, faults: Faults) -> None:
    faults.stream_cuts = [0, 0]
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB)] == [1, 2, 3]


def test_events_after_an_id(url: str) -> None:
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB, after=2)] == [3]


def test_a_retried_job_is_followed_past_its_first_end(url: str, faults: Faults) -> None:
    faults.events = [event(1, "status", status="failed"), event(2), event(3, "status", status="succeeded")]
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB)] == [1, 2, 3]


def test_the_end_is_seen_even_if_the_stream_stays_open(url: str, faults: Faults) -> None:
    faults.stays = True
    with Stillroom(url) as service:
        assert [item["id"] for item in service.follow(JOB)] == [1, 2, 3]


def test_wait_returns_the_job_or_raises(url: str, faults: Faults) -> None:
    with Stillroom(url) as service:
        assert service.wait(JOB)["status"] == "succeeded"
        faults.status = "failed"
        with pytest.raises(JobFailed, match="the disk is full") as caught:
            service.wait(JOB)
    assert caught.value.job["error"] is not None


def test_a_refused_stream_is_not_tried_again(url: str, faults: Faults) -> None:
    with Stillroom(url) as service, pytest.raises(NotFound):
        next(service.follow("job_unknown/../.."))
    assert faults.last_event_ids == []


def test_pings_are_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has waited long: the stream breaks after minutes of nothing but pings."""
    monkeypatch.setattr("stillroom.events.FIRST_PAUSE", 0.0)
    clock = iter(range(0, 100_000, 50))
    monkeypatch.setattr("stillroom.events.time.monotonic", lambda: next(clock))
    opened: list[int] = []

    def pings() -> Iterator[bytes]:
        for _ in range(10):
            yield b": ping\n\n"
        raise httpx.RemoteProtocolError("peer closed the connection")

    @contextmanager
    def connect(after: int) -> Iterator[httpx.Response]:
        opened.append(after)
        content = pings() if len(opened) == 1 else [event(1).model_dump_json().join(["id: 1\ndata: ", "\n\n"]).encode()]
        yield httpx.Response(200, content=content)

    assert [item["id"] for item in follow(connect, lambda after: after == 1)] == [1]
    assert opened == [0, 0]


@pytest.mark.parametrize("status", [502, 503])
def test_a_service_that_restarts_is_waited_for(
    url: str, faults: Faults, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stillroom.events.FIRST_PAUSE", 0.01)
    faults.stream_cuts, faults.away = [1], [status] * 3
    with Stillroom(url) as service:
        assert service.wait(JOB)["status"] == "succeeded"
    assert faults.away == []


def test_silence_ends_in_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.events.FIRST_PAUSE", 0.0)
    tries = []

    def connect(after: int) -> AbstractContextManager[httpx.Response]:
        tries.append(after)
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable, match="refused"):
        next(follow(connect, lambda after: False, after=5, patience=0.0))
    assert set(tries) == {5}
