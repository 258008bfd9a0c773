"""SIMULATION of large jobs at the level of shards, rows, messages and files: what grows, and how.

    python -m benchmarks.simulated_job [--images 10000 --images 100000 --images 1000000]
        [--shard-size 1024] [--classes 100] [--database-url URL]

Everything is the service's own (plan, database, outbox, claims, supervisor, child processes, blob store, the training
corpus that maps all shards) but the work of the stages: their processes write files of the right names and shapes
with next to nothing in them. Counts are compared with the formulas of docs/scale.md. No speed of a real job is shown.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Engine, func, select

from api.jobs.service import read_job
from benchmarks.growth import Growth, growth
from benchmarks.simulated_stage import ENCODER
from distillation.plan import plan
from distillation.protocol import peak_memory
from distillation.recipe import Recipe
from state.blobs import BlobStore
from state.database import make_engine, read_scope, session_scope
from state.jobs import create_job
from state.migrate import upgrade
from state.outbox import mark_published, unpublished
from state.settings import Settings
from state.tables import Result, Table, Task
from workers.supervisor import run_task

ENTRY = "benchmarks.simulated_stage:main"


def main(
    images: Annotated[list[int] | None, typer.Option(min=200, help="Images of a job; give it several times.")] = None,
    shard_size: Annotated[int, typer.Option(min=16, help="Images of one task.")] = 1024,
    classes: Annotated[int, typer.Option(min=2)] = 100,
    database_url: Annotated[str, typer.Option(help="An empty PostgreSQL database for one size; default: SQLite.")] = "",
) -> None:
    sizes = images or [10_000, 100_000, 1_000_000]
    runs = []
    for count in sizes:
        # A process for each size: the peak of a process's memory only grows.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs.append(pool.submit(simulate, count, shard_size, classes, database_url).result())
    # Brings torch: a process started by this one would have that in its peak of memory.
    from benchmarks.harness import print_table, write_json

    rows = [[name, *(f"{one['counted'][name]:,}" for one in runs)] for name in runs[0]["counted"]]
    rows += [[f"{name} of its formula", *(_share(one, name) for one in runs)] for name in Growth._fields]
    print_table("SIMULATION: what is left by a job", ["", *(f"{count:,} images" for count in sizes)], rows)
    write_json("simulated-job", {"shard_size": shard_size, "classes": classes, "runs": runs})


def _share(run: dict[str, Any], name: str) -> str:
    return f"{run['counted'][name] / run['formula'][name]:.2f}"


def simulate(images: int, shard_size: int, classes: int, database_url: str) -> dict[str, Any]:
    """Run one job from its recipe to its encoder, and count."""
    with tempfile.TemporaryDirectory(prefix="simulated-job-") as folder:
        settings = Settings(home=Path(folder), database_url=database_url, stage_entry=ENTRY)
        engine, blobs = make_engine(settings.database_url), BlobStore(settings.blobs_url)
        upgrade(engine)
        recipe = _recipe(images, shard_size, classes)
        clock = [time.monotonic()]
        tasks = plan(recipe, str)
        clock.append(time.monotonic())
        with session_scope(engine) as session:
            job_id = create_job(session, recipe, tasks=tasks).id
        clock.append(time.monotonic())
        seconds = list(_work(engine, blobs, settings))
        clock.append(time.monotonic())
        status = read_job(engine, job_id).status
        clock.append(time.monotonic())
        if status != "succeeded":
            raise RuntimeError(f"the simulated job has {status}")
        tenth = max(1, len(seconds) // 10)
        return {
            "images": images,
            "counted": _count(engine, settings),
            "formula": growth(images, shard_size, classes, len(ENCODER))._asdict(),
            "seconds": dict(zip(("plan", "submit", "work", "read"), _steps(clock), strict=True)),
            "task_seconds": {
                "first tenth": statistics.median(seconds[:tenth]),
                "last tenth": statistics.median(seconds[-tenth:]),
            },
        }


def _recipe(images: int, shard_size: int, classes: int) -> Recipe:
    return Recipe.model_validate(
        {
            "domain": {"name": "simulated", "classes": [f"class {number}" for number in range(classes)]},
            "student": {"size": "s"},
            "data": {
                "generator": {"model": "simulated/generator", "revision": "simulated"},
                "images_per_class": images // classes,
                "shard_size": shard_size,
            },
        }
    )


def _work(engine: Engine, blobs: BlobStore, settings: Settings) -> Iterator[float]:
    """Take messages as a worker would until there are none; the seconds of each task."""
    shutdown = threading.Event()
    while True:
        with session_scope(engine) as session:
            messages = unpublished(session)
            mark_published(session, [message.id for message in messages])
        if not messages:
            return
        for message in messages:
            began = time.monotonic()
            run_task(message.task_id, engine=engine, blobs=blobs, settings=settings, shutdown=shutdown)
            yield time.monotonic() - began


def _count(engine: Engine, settings: Settings) -> dict[str, int]:
    with read_scope(engine) as session:
        rows = {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Table.metadata.sorted_tables
        }
        shards = session.scalar(select(func.count()).select_from(Task).where(Task.stage == "generate")) or 0
        files = sum(len(found) for found in session.scalars(select(Result.files)))
        summary = session.scalars(select(Task.summary).where(Task.stage == "distil")).one() or {}
    stored = [path for path in (settings.home / "blobs").rglob("*") if path.is_file()]
    laid_out = [path for path in settings.cache.rglob("*") if path.is_file()]
    return {
        "shards": shards,
        "tasks": rows["tasks"],
        "results": rows["results"],
        "messages": rows["outbox"],
        "events": rows["events"],
        "files": files,
        "open_files": int(summary["open_files"]),
        "training_memory": int(summary["memory"]),
        "blobs": len(stored),
        "blob_bytes": sum(path.stat().st_size for path in stored),
        "input_files": len(laid_out),
        "supervisor_peak_memory": peak_memory(),
    }


def _steps(clock: list[float]) -> list[float]:
    return [round(after - before, 3) for before, after in pairwise(clock)]


if __name__ == "__main__":
    typer.run(main)
