"""Generation with 1, 2 and 4 workers of the service against ideal.

    python -m benchmarks.scale [--workers 1 --workers 2 --workers 4] [--images 2048] [--shards 16] [--rounds 3]

Each arm is a service of its own on this machine: SQLite, a private Redis (files where there is none), Celery workers
as documented, real stage processes with the starter generator and teacher. A worker has the same share of the machine
in every arm: one GPU, or without GPUs an equal part of the cores, those divided by the largest number of workers, as
threads (one at least). Ideal is the speed of one such worker times their number, as far as there are GPUs or cores for
them: on two cores four workers can be no faster than two. Time counts from the start of the first shard to the end of
the last, on workers that have done a shard before. Every arm makes the same images.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from sqlalchemy import Engine, select

from benchmarks.harness import matmul_flops, print_table, ratio, write_json
from distillation.plan import plan
from distillation.recipe import Recipe
from distillation.taught_classes import taught_classes
from state.database import make_engine, read_scope, session_scope
from state.jobs import create_job, get_job, job_tasks
from state.migrate import upgrade
from state.settings import Settings, environment
from state.tables import TERMINAL, Result, Task
from workers import private_redis
from workers.celery_app import QUEUE_NAMES, make_app
from workers.components import Component
from workers.dispatch import publish_outbox

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS, STOP_SECONDS = 0.05, 60.0
WARM_UP_SHARDS = 4
"""For each worker: every one is to start its stage processes' parent and to load the libraries."""


def main(
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of workers; give it several times.")] = None,
    images: Annotated[int, typer.Option(min=64, help="Images of a round.")] = 2048,
    shards: Annotated[int, typer.Option(min=2, help="Tasks of a round; best a multiple of every number.")] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    numbers = sorted(workers or [1, 2, 4])
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    threads = max(1, cores // numbers[-1])
    places = gpus or cores // threads
    calibration = {"fp32 GFLOP/s, all threads": matmul_flops(torch.float32) / 1e9}
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    made: set[tuple[str, ...]] = set()
    for turn in range(rounds):
        for number in numbers[turn % len(numbers) :] + numbers[: turn % len(numbers)]:
            took, pixels = measure(number, threads, gpus, images, shards)
            seconds[number].append(took)
            made.add(pixels)
    if len(made) != 1:
        raise RuntimeError("the arms made different images")
    first = seconds[numbers[0]]
    speed_ups = {number: ratio(first, times) for number, times in seconds.items()}
    ideal = {number: min(number, places) / min(numbers[0], places) for number in numbers}
    print_table(
        f"Generation, {images} images in {shards} shards; each worker has {'a GPU' if gpus else f'{threads} threads'}",
        ["workers", "images/s", f"speed-up over {numbers[0]}", "ideal", "share of ideal"],
        [
            [
                number,
                images / statistics.median(seconds[number]),
                speed_ups[number],
                ideal[number],
                f"{speed_ups[number].median / ideal[number]:.0%}",
            ]
            for number in numbers
        ],
    )
    write_json(
        "scale",
        {
            "settings": {"images": images, "shards": shards, "rounds": rounds, "threads": threads, "places": places},
            "calibration": calibration,
            "seconds": {str(number): times for number, times in seconds.items()},
            "speed_up": {str(number): speed_ups[number]._asdict() for number in numbers},
            "ideal": {str(number): ideal[number] for number in numbers},
        },
    )


def measure(workers: int, threads: int, gpus: int, images: int, shards: int) -> tuple[float, tuple[str, ...]]:
    """Seconds of all shards of a job with warm workers, and the hash of each shard's pixels."""
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder, ExitStack() as running:
        settings = Settings(home=Path(folder))
        if redis := private_redis.find_redis():
            running.enter_context(_broker(settings, redis))
        engine = make_engine(settings.database_url)
        upgrade(engine)
        for number in range(workers):
            running.enter_context(_worker(settings, number, threads, gpus))
        _warm_up(engine, settings, workers)
        tasks = _run(engine, settings, _recipe(images, shards, seed=1))
        begun = min(task.started_at for task in tasks if task.started_at)
        ended = max(task.finished_at for task in tasks if task.finished_at)
        with read_scope(engine) as session:
            results = {r.key: r for r in session.scalars(select(Result).where(Result.stage == "generate"))}
        pixels = tuple(str(results[task.key].files["pixels.npy"]["sha256"]) for task in tasks)
        return (ended - begun).total_seconds(), pixels


@contextmanager
def _broker(settings: Settings, redis: str) -> Iterator[None]:
    path = private_redis.socket_path(settings.home)
    data = settings.home / "redis"
    data.mkdir(parents=True)
    with _component(settings, "redis", private_redis.redis_command(redis, path, data), {}):
        while not private_redis.answers(path):
            time.sleep(POLL_SECONDS)
        settings.broker_url = f"redis+socket://{path}"
        yield


def _worker(settings: Settings, number: int, threads: int, gpus: int) -> Any:
    share = {"OMP_NUM_THREADS": str(threads)}
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
    options = ["--pool", "threads", "--concurrency", "1", "-Q", ",".join(QUEUE_NAMES), "-n", f"bench-{number}@%h"]
    program = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker", *options, "-l", "INFO"]
    return _component(settings, f"worker-{number}", [*program, "--without-gossip", "--without-mingle"], share)


@contextmanager
def _component(settings: Settings, name: str, program: list[str], more: dict[str, str]) -> Iterator[None]:
    told = {name: str(getattr(settings, name)) for name in ("home", "database_url", "broker_url", "blobs_url")}
    component = Component(name, program, {**environment(**told), **more}, ROOT, settings.home / "logs" / f"{name}.log")
    component.start()
    try:
        yield
    finally:
        component.terminate()
        component.wait(STOP_SECONDS)


def _warm_up(engine: Engine, settings: Settings, workers: int) -> None:
    """Small jobs until every worker has had a task of one that is over."""
    seen: set[str] = set()
    seed = 100
    while len(seen) < workers:
        seed += 1
        _run(engine, settings, _recipe(16 * WARM_UP_SHARDS * workers, WARM_UP_SHARDS * workers, seed), seen)


def _run(engine: Engine, settings: Settings, recipe: Recipe, seen: set[str] | None = None) -> list[Task]:
    """Let the workers make the recipe's images; its finished shards. ``seen`` gets the names of workers at work."""
    with session_scope(engine) as session:
        # A job that ends with its images.
        tasks = [task for task in plan(recipe, str) if task.stage in ("prompts", "generate")]
        job_id = create_job(session, recipe, tasks=tasks).id
    celery = make_app(settings)
    while True:
        publish_outbox(engine, celery)
        with read_scope(engine) as session:
            job, rows = get_job(session, job_id), job_tasks(session, job_id)
        if seen is not None:
            seen.update(row.lease_owner for row in rows if row.lease_owner)
        assert job is not None
        if job.status in TERMINAL:
            break
        time.sleep(POLL_SECONDS)
    celery.close()
    if job.status != "succeeded":
        raise RuntimeError(f"the job has {job.status}: {job.error}")
    return [row for row in rows if row.stage == "generate"]


def _recipe(images: int, shards: int, seed: int) -> Recipe:
    classes = [names[0] for names in (taught_classes("starter") or [])[:8]]
    return Recipe.model_validate(
        {
            "domain": {"name": "scale", "classes": classes},
            "data": {
                "generator": {"model": "starter", "steps": 1, "guidance": 0.0},
                "images_per_class": max(2, images // len(classes)),
                "shard_size": max(16, images // shards),
                "seed": seed,
                "filter": {"teacher_agrees": False, "near_constant": False},  # one try for each image
            },
            "teacher": {"model": "starter"},
        }
    )


if __name__ == "__main__":
    typer.run(main)
