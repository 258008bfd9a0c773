"""When an output that was there is gone from the blob store: it is made again, not mourned."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text, cast, delete
from sqlalchemy.orm import Session

from state.advance import advance, fail_job, stopped, tasks_of
from state.claims import held_task, release_task
from state.errors import error_of
from state.events import append_event
from state.outbox import announce_twins
from state.tables import Result, Task


def remake_input(session: Session, task_id: int, token: int, bundle: str, max_attempts: int = 3) -> None:
    """Let the tasks that made ``bundle`` run again, and the task that needs it wait for them.

    Each making counts as an attempt, or workers that do not share a blob store would go on for ever.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    forget_bundle(session, bundle)
    if stopped(job):
        release_task(session, task_id, token)
        return
    task.status, task.attempt, task.lease_owner, task.lease_expires_at = "waiting", task.attempt - 1, None, None
    tasks = tasks_of(session, job.id)
    makers = [maker for maker in tasks if maker.bundle == bundle]
    remade = {maker.stage for maker in makers}
    for other in tasks:
        if other.status == "ready" and remade.intersection(other.needs):
            other.status = "waiting"
    for maker in makers:
        maker.status, maker.reused, maker.bundle, maker.progress = "waiting", False, None, None
    announce_twins(session, task)
    if exhausted := next((maker for maker in makers if maker.attempt >= max_attempts), None):
        fail_job(session, job, exhausted, _gone_again(exhausted))
        return
    for maker in makers:
        text = f"The output of stage {maker.stage} is gone from the blob store and is made again."
        append_event(session, job.id, "warning", text, "warning", maker.stage, {"code": "output_gone"})
    session.flush()
    advance(session, job)


def forget_bundle(session: Session, bundle: str) -> None:
    """Let no later job take over an output that is gone."""
    session.execute(delete(Result).where(Result.bundle == bundle))


def forget_outputs(session: Session, blob: str) -> None:
    """Let no later job take over an output of which a file is gone: it then makes it again."""
    names_it = cast(Result.files, Text).contains(blob)
    session.execute(delete(Result).where(names_it).execution_options(synchronize_session=False))


def _gone_again(maker: Task) -> dict[str, Any]:
    message = f"Stage {maker.stage}'s output is gone from the blob store, after {maker.attempt} attempts to make it."
    hint = (
        "Have all workers, the API and the janitor the same STILLROOM_BLOBS_URL? A folder must be the same on every "
        "machine, and nothing else may delete what is in the store. Then retry the job."
    )
    return error_of("output_gone", message, hint, stage=maker.stage, shard=maker.shard)
