"""What a job has made so far: samples, report, checkpoints, artifacts."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from api.archives import FileRead
from api.encoders.service import list_files
from api.errors import Problem, not_found
from api.files import require_blobs
from api.generators.files import list_generator_files
from api.jobs.schemas import CheckpointRead, SampleRead
from api.jobs.service import require
from api.pages import Page, cut
from state import jobs
from state.blobs import BlobStore
from state.database import read_scope
from state.tables import Encoder, Generator, Result

SAMPLES_PER_SHARD = 100_000
"""More than a shard has samples: a sample's number stays the same while other shards come in."""


def list_samples(engine: Engine, blobs: BlobStore, job_id: str, *, after: int | None, limit: int) -> Page[SampleRead]:
    """Samples of the shards that are done, by number."""
    first = 0 if after is None else after + 1
    found = []
    for shard, result in _shards(engine, job_id):
        base = shard * SAMPLES_PER_SHARD
        if base + SAMPLES_PER_SHARD <= first:
            continue
        for index, sample in enumerate(_listing(engine, blobs, result)):
            if base + index >= first:
                found.append(_sample(job_id, base + index, sample))
        if len(found) > limit:
            break
    data, more = cut(found, limit)
    return Page(data=list(data), next=str(data[-1].n) if more else None)


def sample_blob(engine: Engine, blobs: BlobStore, job_id: str, n: int) -> tuple[str, int]:
    """sha256 and size of one sample's JPEG."""
    shard, index = divmod(n, SAMPLES_PER_SHARD)
    result = dict(_shards(engine, job_id)).get(shard)
    listing = _listing(engine, blobs, result) if result else []
    if result is None or not 0 <= index < len(listing):
        raise not_found("sample", str(n))
    entry = result.files[_file(listing[index])]
    return str(entry["sha256"]), int(entry["size"])


def read_report(engine: Engine, job_id: str) -> dict[str, Any]:
    """The encoder's report, or before the export that of the evaluation.

    Raises:
        Problem: 404, nothing has been evaluated yet.
    """
    with read_scope(engine) as session:
        job = require(session, job_id)
        if job.generator_id is not None:
            report = session.get_one(Generator, job.generator_id).report
            if report is None:
                raise Problem(404, "not_found", f"{job_id} is {job.status}: it has no report before its generator")
            return report
        if job.encoder_id is not None:
            return session.get_one(Encoder, job.encoder_id).report
        result = next((r for _, r in _results(session, job_id, "evaluate") if r.report), None)
        if result is None or result.report is None:
            raise Problem(404, "not_found", f"{job_id} is {job.status}: it has no report before its evaluation")
        return result.report


def list_checkpoints(engine: Engine, job_id: str) -> list[CheckpointRead]:
    with read_scope(engine) as session:
        require(session, job_id)
        stages = {task.id: task.stage for task in jobs.job_tasks(session, job_id)}
        return [
            CheckpointRead(
                id=row.id, stage=stages[row.task_id], step=row.step, metrics=row.metrics, created_at=row.created_at
            )
            for row in jobs.job_checkpoints(session, job_id)
        ]


def list_artifacts(engine: Engine, job_id: str) -> list[FileRead]:
    """The files of the job's encoder or generator; none before it is finished."""
    with read_scope(engine) as session:
        job = require(session, job_id)
        if job.generator_id is not None:
            return list_generator_files(session.get_one(Generator, job.generator_id))
        return list_files(session, job.encoder_id) if job.encoder_id else []


def _shards(engine: Engine, job_id: str) -> list[tuple[int, Result]]:
    with read_scope(engine) as session:
        require(session, job_id)
        return _results(session, job_id, "generate")


def _results(session: Session, job_id: str, stage: str) -> list[tuple[int, Result]]:
    """Shard and output of a stage's tasks that are done, by shard."""
    tasks = {t.key: t.shard for t in jobs.job_tasks(session, job_id) if t.stage == stage and t.status == "done"}
    results = session.scalars(select(Result).where(Result.key.in_(tasks)))
    return sorted(((tasks[result.key], result) for result in results), key=lambda pair: pair[0])


def _listing(engine: Engine, blobs: BlobStore, result: Result) -> list[dict[str, Any]]:
    if "samples.json" not in result.files:
        return []
    sha256 = result.files["samples.json"]["sha256"]
    require_blobs(engine, blobs, {"samples.json": sha256})
    with blobs.open(sha256) as file:
        listed = json.loads(file.read())
    return [sample for sample in listed if _file(sample) in result.files]


def _file(sample: dict[str, Any]) -> str:
    """`samples.json` names files with or without their folder."""
    name = str(sample["file"])
    return name if name.startswith("samples/") else f"samples/{name}"


def _sample(job_id: str, n: int, sample: dict[str, Any]) -> SampleRead:
    shown = {name: sample[name] for name in ("class", "prompt", "seed")}
    return SampleRead.model_validate({**shown, "n": n, "url": f"/v1/jobs/{job_id}/samples/{n}"})
