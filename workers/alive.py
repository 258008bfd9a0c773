"""Signs of life of a worker or the janitor: a file they touch, whose age ``python -m workers.alive`` checks.

Asking the worker through the broker would start Celery for each check; a file costs next to nothing.
"""

from __future__ import annotations

import sys
import time

from state.settings import Settings, get_settings

SILENT_SECONDS = 60.0
"""Age of the file, beyond the pause between two rounds of the janitor, at which its process counts as stuck."""


def beat(settings: Settings) -> None:
    """Show that this process works: in the worker its event loop turns, in the janitor a round has succeeded."""
    if settings.alive_file is not None:
        settings.alive_file.touch()


def silence(settings: Settings) -> str | None:
    """What is wrong, or None if the last sign of life is young enough."""
    file = settings.alive_file
    if file is None:
        return "STILLROOM_ALIVE_FILE is not set"
    try:
        age = time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return f"{file} is not there: no sign of life yet"
    return f"the last sign of life is {age:.0f} s old" if age > SILENT_SECONDS + settings.janitor_seconds else None


def main() -> int:
    """Exit status 1, and why, if there is no recent sign of life."""
    if problem := silence(get_settings()):
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
