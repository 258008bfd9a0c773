"""Work on what strangers send, in a process of its own: a hostile photo may cost memory or crash a decoder.

That is then not the API's memory, and not the API's crash.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

T = TypeVar("T")


class Helper:
    """One process, started at its first work and again if it dies. Work waits its turn.

    Functions are sent by name, so the process imports their module: it should import little.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False
        # Held until the work is done: a pool whose process dies gives the break to all that wait in it.
        self._turn = threading.Lock()

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call ``function`` over there and wait for its result.

        Raises:
            MemoryError: the process was killed at this work; the usual reason is the memory.
        """
        with self._turn:
            if self._closed:
                raise RuntimeError("the API is ending, and its helper process with it")
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare)
            try:
                return self._pool.submit(function, *arguments).result()
            except BrokenProcessPool as error:
                self._pool = None
                raise MemoryError("the process that did the work was killed") from error

    def close(self) -> None:
        """End the process after its present work; what waits its turn is not begun."""
        self._closed = True
        with self._turn:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None


def _prepare() -> None:
    """Leave Ctrl-C to the API, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
