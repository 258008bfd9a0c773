"""A job's events as they happen: server-sent events, read across lost connections.

Every event carries an id. After a lost connection the stream is opened again with `Last-Event-ID`, so nothing is
missed, and an event that comes twice is given once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import httpx

from stillroom.errors import ApiError, Unreachable, error_of
from stillroom.schemas import OVER, Event

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Message:
    """One server-sent event, or (`data` empty) only a new `retry` time."""

    id: str
    event: str
    data: str
    retry: float | None


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    """Whole lines of a stream that comes in pieces.

    httpx's `iter_lines` also ends lines at U+2028 and its like, which stand as they are in JSON.
    """
    rest, after_return = "", False
    for text in texts:
        if after_return:  # the line has ended already, if this is the second half of CR LF
            text = text.removeprefix("\n")
        after_return = text.endswith("\r")
        *lines, rest = LINE_END.split(rest + text)
        yield from lines


def read_messages(lines: Iterable[str]) -> Iterator[Message]:
    """Parse a `text/event-stream` (WHATWG HTML, section 9.2). A message cut off by the end is dropped.

    Args:
        lines: the stream's lines, without line ends.
    """
    last_id, event, data, retry = "", "", list[str](), None
    for line in lines:
        if line == "":
            if data or retry is not None:
                yield Message(last_id, event or "message", "\n".join(data), retry)
            event, data, retry = "", [], None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and "\0" not in value:
            last_id = value
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = int(value) / 1000


def follow(
    connect: Callable[[int], AbstractContextManager[httpx.Response]],
    is_over: Callable[[int], bool],
    after: int = 0,
    patience: float = 120.0,
) -> Iterator[Event]:
    """Yield events with ids above `after` until the job is over.

    Args:
        connect: opens the stream that starts after an event id.
        is_over: whether the job has ended and has no event after the id given.
        patience: seconds without a sign of life, a ping at least, after which to give up.

    Raises:
        Unreachable: no sign of life for `patience` seconds.
        ApiError: the service refused the stream.
    """
    pause, heard_at = FIRST_PAUSE, time.monotonic()

    def heard(lines: Iterable[str]) -> Iterator[str]:
        nonlocal heard_at
        for line in lines:
            heard_at = time.monotonic()
            yield line

    while True:
        reason = "the stream ended"
        try:
            with connect(after) as response:
                if response.status_code != 200:
                    response.read()
                    raise error_of(response)
                pause, heard_at = FIRST_PAUSE, time.monotonic()
                for message in read_messages(heard(split_lines(response.iter_text()))):
                    pause = message.retry if message.retry is not None else pause
                    event = _event(message)
                    if event is None or event["id"] <= after:
                        continue
                    after = event["id"]
                    yield event
                    # An ending in the log may be followed by a retry, so ask rather than believe it.
                    if _ends(event) and is_over(after):
                        return
            if is_over(after):
                return
        except ApiError as error:
            if error.status < 500:
                raise
            reason = str(error)
        except (httpx.TransportError, Unreachable) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() - heard_at > patience:
            raise Unreachable("the service", f"no sign of life for {patience:.0f} s ({reason})")
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _event(message: Message) -> Event | None:
    """The event in a message; None for anything else (a ping, a new retry time)."""
    try:
        content = json.loads(message.data)
    except ValueError:
        return None
    if not isinstance(content, dict) or "type" not in content:
        return None
    if "id" not in content and message.id.isdigit():
        content["id"] = int(message.id)
    return cast(Event, content) if isinstance(content.get("id"), int) else None


def _ends(event: Event) -> bool:
    return event["type"] == "status" and (event.get("data") or {}).get("status") in OVER
