"""When an output that was there is gone from the blob store: it is made again, not mourned."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from state.advance import advance, stopped, tasks_of
from state.claims import held_task, release_task
from state.events import append_event
from state.outbox import announce_twins
from state.tables import Result


def remake_input(session: Session, task_id: int, token: int, bundle: str) -> None:
    """Let the tasks that made ``bundle`` run again, and the task that needs it wait for them.

    Raises:
        StaleToken: the task is no longer this worker's.
    """
    job, task = held_task(session, task_id, token)
    session.execute(delete(Result).where(Result.bundle == bundle))  # no other job shall build on it
    if stopped(job):
        release_task(session, task_id, token)
        return
    task.status, task.attempt, task.lease_owner, task.lease_expires_at = "waiting", task.attempt - 1, None, None
    tasks = tasks_of(session, job.id)
    remade = {maker.stage for maker in tasks if maker.bundle == bundle}
    for other in tasks:
        if other.status == "ready" and remade.intersection(other.needs):
            other.status = "waiting"
    for maker in tasks:
        if maker.bundle == bundle:
            maker.status, maker.attempt, maker.reused, maker.bundle = "waiting", 0, False, None
            text = f"The output of stage {maker.stage} is gone from the blob store and is made again."
            append_event(session, job.id, "warning", text, "warning", maker.stage, {"code": "output_gone"})
    announce_twins(session, task)
    session.flush()
    advance(session, job)
