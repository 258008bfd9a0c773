"""python -m demo: the service started, a job run through the CLI, its encoder used, everything stopped again."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from demo.command_line import CommandFailed, CommandLine
from demo.demo import run_demo
from demo.service import ServiceError, embedded_service, log_tails
from demo.summary import summary

LOG = "service.log"
MADE = ("home", "encoder", "samples", "photos", "report.json", "report.svg", "grid.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--real", type=Path, metavar="PATH", help="real photos: a parquet file, a zip or a folder")
    parser.add_argument("--second-size", default="xs", metavar="SIZE", help="student size of the second job")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="where everything goes")
    parser.add_argument("--keep", action="store_true", help="keep the service's files (images, database) afterwards")
    given = parser.parse_args()
    if given.real is not None and not given.real.exists():
        parser.error(f"--real: {given.real} does not exist")
    if given.out.exists() and any(given.out.iterdir()) and not (given.out / LOG).exists():
        parser.error(f"--out: {given.out} holds something else than an earlier demo, which would be overwritten")
    return given


def main() -> int:
    given = arguments()
    out: Path = given.out
    for path in (out / name for name in MADE):  # nothing of an earlier run may pass for one of this
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops the demo stops the service with it
    home, log = out / "home", out / LOG
    try:
        print(f"Starting the service; its log is {log}.", flush=True)
        with embedded_service(home, log) as url:
            found = run_demo(CommandLine(url), out, given.real, given.second_size)
    except (CommandFailed, ServiceError) as error:
        print(f"\nThe demo failed: {error}\n\n{log_tails(home, log)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the service is stopped.", file=sys.stderr)
        return 130
    except Exception:
        print(f"\nThe demo failed.\n\n{log_tails(home, log)}\n", file=sys.stderr)
        raise
    if not given.keep:  # after a failure everything stays, to be looked at
        shutil.rmtree(home)
    figures = summary(found)
    (out / "report.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return conclude(figures, out)


def conclude(figures: dict[str, Any], out: Path) -> int:
    """Print the checks; the exit code."""
    checks, second = figures["checks"], figures["second_run"]
    print()
    for name, held in checks.items():
        print(f"{'ok    ' if held else 'FAILED'}  {name}")
    print(f"first job {figures['seconds']} s, second {second['seconds']} s: {second['times_faster']} times faster")
    for name, reached in figures["goals"].items():
        print(f"goal {'reached' if reached else 'MISSED '}  {name}")
    print(f"All figures: {out / 'report.json'}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
