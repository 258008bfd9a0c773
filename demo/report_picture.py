"""The report's tables as a picture, as `stillroom report` prints them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from stillroom.report_view import report_view

LEFT_OUT = ("latency", "files")


def draw_report(report: Mapping[str, Any], target: Path) -> None:
    """Write an SVG of scores, classes and confusions; files and latencies are left to the command."""
    console = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
    console.print(report_view({key: value for key, value in report.items() if key not in LEFT_OUT}))
    console.save_svg(str(target), title="stillroom report", theme=DEFAULT_TERMINAL_THEME)
