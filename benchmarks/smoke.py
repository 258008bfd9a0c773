"""Every benchmark at a reduced size: are the ratios still those that were committed?

    python -m benchmarks.smoke [--only NAME] [--write]

Ratios are compared, never seconds. A ratio whose whole 95 % interval lies more than a tenth below the committed median
is called slower; that is a warning, not a failure: the exit status stays 0. Ratios belong to a size and depend on the
processor, so the committed ones are this command's own, written by ``--write`` on an idle machine into
``benchmarks/ratios.json``, a set for each machine; on another machine there is nothing to compare with, and it says so.
A benchmark joins by one line in :data:`SIZES`; its ``main`` returns its ratios by name, each how many times ours is
faster.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.harness import Ratio, console, machine, print_table, write_json

SIZES: dict[str, dict[str, Any]] = {
    "distil": {"batch_size": 16, "rounds": 5},
    "generate": {"images": 32, "batch_size": 16, "rounds": 5},
    "teacher": {"images": 8, "rounds": 3},
    "images": {"images": 256, "photos": 32, "rounds": 3},
    "cold_start": {"rounds": 3, "service_jobs": 0},
}
"""The arguments of each benchmark's ``main``; ten to thirty minutes in all on two cores.

``time_to_accuracy`` is none of them: shortened, no student learns enough for the times to mean anything."""
COMMITTED = Path(__file__).with_name("ratios.json")
TOLERANCE = 0.1
SLOWER, MISSING = "slower than committed", "not measured now"
SAME_MACHINE = ("cpu", "threads", "gpu")


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only this benchmark (may be repeated).")] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the ratios found, to be committed.")] = False,
) -> list[str]:
    """Returns what is slower than committed, as ``benchmark: ratio``."""
    if unknown := set(only or ()) - SIZES.keys():
        raise typer.BadParameter(f"no benchmark {min(unknown)!r}; there are {', '.join(SIZES)}", param_hint="--only")
    here, others = committed_ratios()
    chosen = [name for name in SIZES if name in (only or SIZES)]
    found = {name: main_of(name)(**SIZES[name]) for name in chosen}
    rows = [
        [name, which, now or "", old or "none", verdict(now, old)]
        for name, ratios in found.items()
        for which, now, old in compared(ratios, here.get(name, {}))
    ]
    print_table("ratios at smoke size", ["benchmark", "ratio", "now", "committed", ""], rows)
    if others and not here:
        known = "; ".join(", ".join(str(one["machine"][key]) for key in SAME_MACHINE) for one in others)
        console.print(f"no ratios are committed of this machine, only of: {known} (cpu, threads, GPU)", highlight=False)
    plain = {name: {which: one._asdict() for which, one in ratios.items()} for name, ratios in found.items()}
    write_json("smoke", {"ratios": plain})
    if write:
        kept = {name: ratios for name, ratios in here.items() if name in SIZES}
        sets = [*others, {"machine": machine(), "ratios": {**kept, **plain}}]
        COMMITTED.write_text(json.dumps(sets, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {COMMITTED.name}")
    return [f"{name}: {which}" for name, which, _, _, said in rows if said == SLOWER]


def committed_ratios() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ratios of this machine by benchmark, and the sets of other machines."""
    sets: list[dict[str, Any]] = json.loads(COMMITTED.read_text(encoding="utf-8")) if COMMITTED.is_file() else []
    now = machine()
    same = [one for one in sets if all(one["machine"][key] == now[key] for key in SAME_MACHINE)]
    return (same[0]["ratios"] if same else {}), [one for one in sets if one not in same]


def main_of(name: str) -> Callable[..., dict[str, Ratio]]:
    """The command of a benchmark: of a module, or of a package's ``__main__``."""
    package = (COMMITTED.parent / name).is_dir()
    found: Callable[..., dict[str, Ratio]] = importlib.import_module(f"benchmarks.{name}" + ".__main__" * package).main
    return found


def compared(
    now: Mapping[str, Ratio], committed: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, Ratio | None, Ratio | None]]:
    """Each ratio's name, as it is and as it was committed; None where there is none."""
    old = {name: Ratio(**one) for name, one in committed.items()}
    return [(name, now.get(name), old.get(name)) for name in dict.fromkeys([*now, *old])]


def verdict(now: Ratio | None, committed: Ratio | None) -> str:
    """What to say of a ratio; nothing where all is well or nothing was committed."""
    if now is None:
        return MISSING
    return SLOWER if committed is not None and now.high < (1 - TOLERANCE) * committed.median else ""


if __name__ == "__main__":
    typer.run(main)
