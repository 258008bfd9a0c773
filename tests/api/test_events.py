"""Events of a job: pages and live streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from api.jobs import events
from state.database import session_scope
from state.events import add_event
from tests.api.conftest import Service

Message = dict[str, Any]


def listen(service: Service, job_id: str, **headers: str) -> Iterator[Message]:
    """Parse a stream into messages; comments come as ``{"comment": ...}``."""
    headers = {"Accept": "text/event-stream", **headers}
    with service.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        message: Message = {}
        for line in answer.iter_lines():
            if not line:
                yield message
                message = {}
                continue
            name, _, value = line.partition(":")
            message[name or "comment"] = value.strip()


def test_pages(any_service: Service) -> None:
    job = any_service.submit()
    any_service.finish(job["id"])
    url = f"/v1/jobs/{job['id']}/events"
    whole = any_service.http.get(url).json()
    assert whole["next"] is None
    ids = [event["id"] for event in whole["data"]]
    assert ids == sorted(ids) and whole["data"][0]["type"] == "status"
    assert whole["data"][-1]["data"]["status"] == "succeeded"
    page = any_service.http.get(url, params={"limit": 3}).json()
    rest = any_service.http.get(url, params={"after": page["next"]}).json()
    assert page["data"] + rest["data"] == whole["data"]


def test_stream_of_a_finished_job_ends_and_resumes(any_service: Service) -> None:
    job = any_service.submit()
    any_service.finish(job["id"])
    messages = list(listen(any_service, job["id"]))
    assert messages[0] == {"retry": "2000"}
    assert messages[-1]["event"] == "end" and json.loads(messages[-1]["data"]) == {"status": "succeeded"}
    told = messages[1:-1]
    listed = any_service.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [json.loads(message["data"]) for message in told] == listed
    assert [(m["id"], m["event"]) for m in told] == [(str(event["id"]), event["type"]) for event in listed]
    resumed = list(listen(any_service, job["id"], **{"Last-Event-ID": told[3]["id"]}))
    assert resumed[1:-1] == told[4:]


def test_streams_are_ascii(service: Service) -> None:
    job = service.submit(data={"images_per_class": 18})
    text = "a\u2028b\u2029c\x85d \N{PEACH}"
    with session_scope(service.engine) as session:
        add_event(session, job["id"], "log", text)
    service.http.post(f"/v1/jobs/{job['id']}/cancel")
    sent = service.http.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}).content
    assert sent.isascii()
    told = [json.loads(message["data"]) for message in listen(service, job["id"]) if "data" in message]
    assert text in [event.get("message") for event in told]


def test_live_stream(service: Service) -> None:
    job = service.submit(data={"images_per_class": 14})
    stream = listen(service, job["id"])
    assert next(stream) == {"retry": "2000"}
    assert next(stream)["event"] == "status"
    with session_scope(service.engine) as session:
        add_event(session, job["id"], "log", "two\nlines", data={"x": 1})
    message = next(stream)
    assert message["event"] == "log" and json.loads(message["data"])["message"] == "two\nlines"
    worker = threading.Thread(target=service.finish, args=(job["id"],))
    worker.start()
    rest = list(stream)
    worker.join()
    assert rest[-1]["event"] == "end"
    assert json.loads(rest[-2]["data"])["data"]["status"] == "succeeded"


def test_pings_while_nothing_happens(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.0)
    job = service.submit(data={"images_per_class": 15})
    stream = listen(service, job["id"])
    found = [next(stream) for _ in range(4)]
    assert {"comment": "ping"} in found
    stream.close()  # type: ignore[attr-defined]


def test_streams_hold_no_connection(service: Service) -> None:
    job = service.submit(data={"images_per_class": 16})
    streams = [listen(service, job["id"]) for _ in range(12)]
    for stream in streams:
        assert next(stream) == {"retry": "2000"}
    assert service.http.get(f"/v1/jobs/{job['id']}").status_code == 200
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_refusals(service: Service) -> None:
    headers = {"Accept": "text/event-stream"}
    missing = service.http.get("/v1/jobs/job_none/events", headers=headers)
    assert missing.status_code == 404 and missing.headers["content-type"] == "application/problem+json"
    job = service.submit(data={"images_per_class": 17})
    bad = service.http.get(f"/v1/jobs/{job['id']}/events", headers={**headers, "Last-Event-ID": "x"})
    assert bad.status_code == 422 and bad.json()["errors"][0]["in"] == "header"
