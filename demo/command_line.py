"""Runs the command `stillroom` as a user would: another process, over HTTP."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).with_name("stillroom")


class CommandFailed(Exception):
    """A command ended with another exit code than 0; what it had to say is on the terminal already."""


class CommandLine:
    """`stillroom` against one service."""

    def __init__(self, url: str) -> None:
        self.url = url

    def show(self, *arguments: str) -> None:
        """Run a command and let its output through."""
        self._run(arguments, capture=False)

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and return what it printed; its progress is shown as it goes."""
        return json.loads(self._run((*arguments, "--json"), capture=True))

    def _run(self, arguments: tuple[str, ...], *, capture: bool) -> str:
        print(f"\n$ stillroom {shlex.join(arguments)}", flush=True)
        if not PROGRAM.exists():
            raise CommandFailed(f"{PROGRAM} is not there; `make setup` installs it")
        done = subprocess.run(
            [str(PROGRAM), "--url", self.url, *arguments],
            stdout=subprocess.PIPE if capture else None,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(f"stillroom {arguments[0]} ended with exit code {done.returncode}")
        return done.stdout or ""
