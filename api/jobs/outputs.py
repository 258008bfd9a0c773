"""What a job has made so far: samples, report, checkpoints, artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, Select, select

from api.archives import FileRead
from api.encoders.service import list_files
from api.errors import Problem, not_found
from api.files import require_blobs
from api.generators.files import list_generator_files
from api.jobs.schemas import CheckpointRead, SampleRead
from api.jobs.service import require
from api.pages import Page, cut
from state.blobs import BlobStore
from state.database import read_scope
from state.tables import Checkpoint, Encoder, Generator, Result, Task

SAMPLES_PER_SHARD = 100_000
"""More than a shard has samples: a sample's number stays the same while other shards come in."""


def list_samples(engine: Engine, blobs: BlobStore, job_id: str, *, after: int | None, limit: int) -> Page[SampleRead]:
    """Samples of the shards that are done, by number."""
    first = 0 if after is None else after + 1
    found = []
    for shard in _shards_from(engine, job_id, first // SAMPLES_PER_SHARD):
        base = shard * SAMPLES_PER_SHARD
        for index, sample in enumerate(_listing(engine, blobs, _shard(engine, job_id, shard))):
            if base + index >= first:
                found.append(_sample(job_id, base + index, sample))
        if len(found) > limit:
            break
    data, more = cut(found, limit)
    return Page(data=list(data), next=str(data[-1].n) if more else None)


def sample_blob(engine: Engine, blobs: BlobStore, job_id: str, n: int) -> tuple[str, int]:
    """sha256 and size of one sample's JPEG."""
    shard, index = divmod(n, SAMPLES_PER_SHARD)
    with read_scope(engine) as session:
        require(session, job_id)
    result = _shard(engine, job_id, shard)
    listing = _listing(engine, blobs, result)
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
        result = session.scalars(_results(job_id, "evaluate")).first()
        if result is None or result.report is None:
            raise Problem(404, "not_found", f"{job_id} is {job.status}: it has no report before its evaluation")
        return result.report


def list_checkpoints(engine: Engine, job_id: str) -> list[CheckpointRead]:
    with read_scope(engine) as session:
        require(session, job_id)
        query = select(Checkpoint, Task.stage).join(Task, Task.id == Checkpoint.task_id)
        return [
            CheckpointRead(id=row.id, stage=stage, step=row.step, metrics=row.metrics, created_at=row.created_at)
            for row, stage in session.execute(query.where(Checkpoint.job_id == job_id).order_by(Checkpoint.id))
        ]


def list_artifacts(engine: Engine, job_id: str) -> list[FileRead]:
    """The files of the job's encoder or generator; none before it is finished."""
    with read_scope(engine) as session:
        job = require(session, job_id)
        if job.generator_id is not None:
            return list_generator_files(session.get_one(Generator, job.generator_id))
        return list_files(session, job.encoder_id) if job.encoder_id else []


def _shards_from(engine: Engine, job_id: str, first: int) -> Sequence[int]:
    """Numbers of the generate shards that are done, from one on; their outputs' rows are large."""
    with read_scope(engine) as session:
        require(session, job_id)
        done = (Task.job_id == job_id, Task.stage == "generate", Task.status == "done", Task.shard >= first)
        return session.scalars(select(Task.shard).where(*done).order_by(Task.shard)).all()


def _shard(engine: Engine, job_id: str, shard: int) -> Result | None:
    """The output of one generate shard that is done."""
    with read_scope(engine) as session:
        return session.scalars(_results(job_id, "generate").where(Task.shard == shard)).first()


def _results(job_id: str, stage: str) -> Select[Result]:
    """Outputs of a stage's tasks that are done."""
    of_stage = (Task.job_id == job_id, Task.stage == stage, Task.status == "done")
    return select(Result).join(Task, Task.key == Result.key).where(*of_stage)


def _listing(engine: Engine, blobs: BlobStore, result: Result | None) -> list[dict[str, Any]]:
    if result is None or "samples.json" not in result.files:
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
