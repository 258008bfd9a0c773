from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, event, select

from state.claims import Claim, claim_task, fail_task, finish_task, heartbeat, release_task
from state.database import database_now, read_scope, session_scope
from state.errors import IdempotencyConflict, NotDeletable, NotRetryable, StaleToken, error_of
from state.events import TYPES, add_event, events_after
from state.jobs import count_unfinished, delete_job, get_job, job_tasks, list_jobs, request_cancel, retry_job
from state.metrics import read_metrics
from state.outbox import due_again, mark_published, overlooked, unpublished
from state.tables import Event, Job, Outbox, Result, Task
from tests.state.examples import new_job, stage_tasks

OOPS = error_of("weights_missing", "no weights", "get them", "teacher.model")


def submit(engine: Engine, images: str = "images", student: str = "student", **more: str) -> str:
    with session_scope(engine) as session:
        return new_job(session, stage_tasks(images, student), metadata=more).id


def tasks_of(engine: Engine, job_id: str, stage: str | None = None) -> list[Task]:
    with read_scope(engine) as session:
        return [task for task in job_tasks(session, job_id) if stage in (None, task.stage)]


def job_of(engine: Engine, job_id: str) -> Job:
    with read_scope(engine) as session:
        job = get_job(session, job_id)
        assert job is not None
        return job


def claim(engine: Engine, task: Task, owner: str = "me") -> Claim | None:
    with session_scope(engine) as session:
        return claim_task(session, task.id, owner, 60)


def finish(engine: Engine, held: Claim) -> None:
    files = {"encoder/a.json": {"sha256": "a" * 64, "size": 3}, "manifest.json": {"sha256": "b" * 64, "size": 4}}
    with session_scope(engine) as session:
        finish_task(
            session, held.task_id, held.token, bundle="c" * 64, files=files, summary={"n": 1}, seconds=2, report={}
        )


def run(engine: Engine, job_id: str, stage: str) -> None:
    for task in tasks_of(engine, job_id, stage):
        held = claim(engine, task)
        assert held
        finish(engine, held)


def test_a_new_job_has_its_first_event_and_message(database: Engine) -> None:
    job_id = submit(database)
    assert job_of(database, job_id).status == "queued"
    assert [task.status for task in tasks_of(database, job_id)] == ["ready"] + ["waiting"] * 5
    with read_scope(database) as session:
        assert [event.type for event in events_after(session, job_id)] == ["status"]
        assert [message.queue for message in unpublished(session)] == ["generate"]


def test_the_next_stage_starts_with_the_last_shard(database: Engine) -> None:
    job_id = submit(database)
    run(database, job_id, "prompts")
    held = [claim(database, task) for task in tasks_of(database, job_id, "generate")]
    assert held[0] and held[1]
    assert held[0].inputs == {"prompts": ["c" * 64]}
    finish(database, held[1])
    assert tasks_of(database, job_id, "distil")[0].status == "waiting"
    finish(database, held[0])
    assert tasks_of(database, job_id, "distil")[0].status == "ready"


def test_a_task_is_claimed_once(database: Engine) -> None:
    job_id = submit(database)
    [prompts] = tasks_of(database, job_id, "prompts")
    first = claim(database, prompts)
    assert first and (first.token, first.attempt) == (prompts.token + 1, 1)
    assert claim(database, prompts, "other") is None
    finish(database, first)
    assert claim(database, prompts, "other") is None  # a late message
    with session_scope(database) as session:
        assert claim_task(session, 12345, "me", 60) is None  # a message of another database


def test_a_stale_token_writes_nothing(database: Engine) -> None:
    job_id = submit(database)
    [prompts] = tasks_of(database, job_id, "prompts")
    old = claim(database, prompts)
    assert old
    with session_scope(database) as session:
        release_task(session, old.task_id, old.token)
    new = claim(database, prompts)
    assert new and new.token == old.token + 1
    with pytest.raises(StaleToken):
        finish(database, old)
    with pytest.raises(StaleToken), session_scope(database) as session:
        heartbeat(session, old.task_id, old.token, 60)
    with pytest.raises(StaleToken), session_scope(database) as session:
        fail_task(session, old.task_id, old.token, OOPS, retryable=False)
    with pytest.raises(StaleToken), session_scope(database) as session:
        release_task(session, old.task_id, old.token)
    with session_scope(database) as session:
        assert heartbeat(session, new.task_id, new.token, 60, {"done": 1}) == "go on"
    assert tasks_of(database, job_id, "prompts")[0].progress == {"done": 1}


def test_one_output_is_made_once(database: Engine) -> None:
    first, second = submit(database), submit(database)
    [mine], [twin] = tasks_of(database, first, "prompts"), tasks_of(database, second, "prompts")
    held = claim(database, mine)
    assert held and claim(database, twin) is None
    assert tasks_of(database, second, "prompts")[0].status == "ready"
    with session_scope(database) as session:
        mark_published(session, [message.id for message in unpublished(session)])
        assert overlooked(session, database_now(session)) == []
    finish(database, held)
    with read_scope(database) as session:
        announced = {message.task_id for message in unpublished(session)}
    assert twin.id in announced
    assert claim(database, twin) is None  # its output exists by now
    twin = tasks_of(database, second, "prompts")[0]
    assert (twin.status, twin.reused, twin.bundle) == ("done", True, "c" * 64)
    assert [task.status for task in tasks_of(database, second, "generate")] == ["ready", "ready"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # SQLite lets one write at a time
def test_an_output_that_is_finished_during_a_claim_is_not_made_again(database: Engine) -> None:
    first, second = submit(database), submit(database)
    [mine], [twin] = tasks_of(database, first, "prompts"), tasks_of(database, second, "prompts")
    held, ended = claim(database, mine), threading.Event()
    assert held

    @event.listens_for(database, "before_cursor_execute")
    def finish_first(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE tasks") and not ended.is_set():  # looked for, not yet claimed
            ended.set()
            finish(database, held)

    assert claim(database, twin) is None and ended.is_set()
    [twin] = tasks_of(database, second, "prompts")
    assert (twin.status, twin.reused, twin.attempt, twin.lease_owner) == ("done", True, 0, None)
    assert [task.status for task in tasks_of(database, second, "generate")] == ["ready", "ready"]


def test_the_twin_of_a_failed_task_gets_its_turn(database: Engine) -> None:
    first, second = submit(database), submit(database)
    held = claim(database, tasks_of(database, first, "prompts")[0])
    assert held
    with session_scope(database) as session:
        fail_task(session, held.task_id, held.token, OOPS, retryable=False)
    assert claim(database, tasks_of(database, second, "prompts")[0])


def test_failure_ends_the_job_and_stops_the_rest(database: Engine) -> None:
    job_id = submit(database)
    run(database, job_id, "prompts")
    one, two = (claim(database, task) for task in tasks_of(database, job_id, "generate"))
    assert one and two
    with session_scope(database) as session:
        fail_task(session, one.task_id, one.token, OOPS, retryable=False)
    job = job_of(database, job_id)
    assert job.status == "failed" and job.error and job.finished_at
    assert job.error == {**OOPS, "stage": "generate", "shard": 0}
    with session_scope(database) as session:
        assert heartbeat(session, two.task_id, two.token, 60) == "stop"
        release_task(session, two.task_id, two.token)
    assert [task.status for task in tasks_of(database, job_id)] == ["done", "failed"] + ["cancelled"] * 4
    assert job_of(database, job_id).error == job.error

    with session_scope(database) as session:
        assert retry_job(session, job_id).status == "queued"
    assert [task.status for task in tasks_of(database, job_id)] == ["done", "ready", "ready"] + ["waiting"] * 3
    assert job_of(database, job_id).attempt == 2
    with pytest.raises(NotRetryable), session_scope(database) as session:
        retry_job(session, job_id)


def test_retries_wait_and_are_bounded(database: Engine) -> None:
    job_id = submit(database)
    [prompts] = tasks_of(database, job_id, "prompts")
    for attempt in (1, 2):
        held = claim(database, prompts)
        assert held and held.attempt == attempt
        with session_scope(database) as session:
            mark_published(session, [message.id for message in unpublished(session)])
            fail_task(session, held.task_id, held.token, OOPS, retryable=True, max_attempts=2, retry_seconds=3600)
            assert overlooked(session, database_now(session)) == due_again(session) == []  # its time has not come
            assert unpublished(session) == []
    assert job_of(database, job_id).status == "failed"
    kinds = [event.level for event in events(database, job_id) if event.type == "error"]
    assert kinds == ["warning", "error"]


def events(engine: Engine, job_id: str) -> list[Event]:
    with read_scope(engine) as session:
        found = events_after(session, job_id, limit=1000)
        assert {event.type for event in found} <= set(TYPES)
        return found


def test_a_job_that_is_deleted_takes_its_tasks_from_their_workers(database: Engine) -> None:
    job_id, other = submit(database), submit(database)
    run(database, job_id, "prompts")
    one, two = (claim(database, task) for task in tasks_of(database, job_id, "generate"))
    assert one and two
    with pytest.raises(NotDeletable, match="generating"), session_scope(database) as session:
        delete_job(session, job_id)
    with session_scope(database) as session:
        fail_task(session, one.task_id, one.token, OOPS, retryable=False)
        delete_job(session, job_id)
    with pytest.raises(StaleToken):
        finish(database, two)
    with pytest.raises(StaleToken), session_scope(database) as session:
        heartbeat(session, two.task_id, two.token, 60)
    assert claim(database, tasks_of(database, other, "prompts")[0]) is None
    assert tasks_of(database, other, "prompts")[0].reused, "the other's output as well"
    with read_scope(database) as session:
        for table in (Task, Event):
            assert set(session.scalars(select(table.job_id))) == {other}
        assert {row.task_id for row in session.scalars(select(Outbox))} <= {t.id for t in tasks_of(database, other)}
    with pytest.raises(LookupError), session_scope(database) as session:
        delete_job(session, job_id)


def test_the_worker_of_a_deleted_job_writes_nothing_into_the_next(database: Engine) -> None:
    """SQLite gives the ids of deleted tasks again."""
    first = submit(database)
    run(database, first, "prompts")
    old, failing = (claim(database, task) for task in tasks_of(database, first, "generate"))
    assert old and failing
    with session_scope(database) as session:
        fail_task(session, failing.task_id, failing.token, OOPS, retryable=False)
        delete_job(session, first)
    second = submit(database, images="other")
    run(database, second, "prompts")
    new, _ = (claim(database, task) for task in tasks_of(database, second, "generate"))
    assert new and (new.task_id == old.task_id or database.dialect.name != "sqlite")
    with pytest.raises(StaleToken), session_scope(database) as session:
        heartbeat(session, old.task_id, old.token, 60)
    with pytest.raises(StaleToken):
        finish(database, old)
    finish(database, new)


def test_cancel(database: Engine) -> None:
    waiting, running = submit(database), submit(database, images="other")
    held = claim(database, tasks_of(database, running, "prompts")[0])
    assert held
    with session_scope(database) as session:
        assert request_cancel(session, waiting).status == "cancelled"
        assert request_cancel(session, running).status == "cancelling"
        assert request_cancel(session, running).status == "cancelling"
        assert heartbeat(session, held.task_id, held.token, 60) == "stop"
        release_task(session, held.task_id, held.token)
    assert job_of(database, running).status == "cancelled"
    with session_scope(database) as session:
        assert count_unfinished(session) == 0
        with pytest.raises(LookupError):
            request_cancel(session, "job_unknown")
    assert claim(database, tasks_of(database, waiting, "prompts")[0]) is None


def test_cancel_that_comes_too_late(database: Engine) -> None:
    job_id = submit(database)
    for stage in ("prompts", "generate", "distil", "evaluate"):
        run(database, job_id, stage)
    held = claim(database, tasks_of(database, job_id, "export")[0])
    assert held
    with session_scope(database) as session:
        request_cancel(session, job_id)
    finish(database, held)
    assert job_of(database, job_id).status == "succeeded"
    assert job_of(database, job_id).encoder_id


def test_idempotency(database: Engine) -> None:
    with session_scope(database) as session:
        first = new_job(session, idempotency_key="key", body_hash="1" * 64).id
    with session_scope(database) as session:
        assert new_job(session, idempotency_key="key", body_hash="1" * 64).id == first
    with pytest.raises(IdempotencyConflict), session_scope(database) as session:
        new_job(session, idempotency_key="key", body_hash="2" * 64)
    with read_scope(database) as session:
        assert len(list(session.scalars(select(Job)))) == 1


def test_lists_are_filtered_and_paged(database: Engine) -> None:
    ids = [submit(database, team=team) for team in ("a", "b", "a")]
    with session_scope(database) as session:
        request_cancel(session, ids[0])
    with read_scope(database) as session:
        assert [job.id for job in list_jobs(session)] == sorted(ids, reverse=True)
        newest = sorted(ids, reverse=True)[0]
        assert [job.id for job in list_jobs(session, after=newest, limit=1)] == [sorted(ids)[1]]
        assert {job.id for job in list_jobs(session, metadata={"team": "a"})} == {ids[0], ids[2]}
        assert [job.id for job in list_jobs(session, metadata={"team": "a"}, status=["queued"])] == [ids[2]]
        assert list_jobs(session, metadata={'te"am': "a"}) == []


def test_events_are_read_in_pages(database: Engine) -> None:
    job_id = submit(database)
    with session_scope(database) as session:
        for number in range(3):
            add_event(session, job_id, "log", f"line {number}", data={"value": number})
    with read_scope(database) as session:
        page = events_after(session, job_id, limit=2)
        rest = events_after(session, job_id, page[-1].id)
    assert [event.message for event in page + rest] == ["The job is queued.", "line 0", "line 1", "line 2"]
    with pytest.raises(LookupError), session_scope(database) as session:
        add_event(session, "job_unknown", "log", "lost")


def test_results_do_not_change(database: Engine) -> None:
    first = submit(database)
    run(database, first, "prompts")
    with read_scope(database) as session:
        [result] = session.scalars(select(Result))
    assert (result.stage, result.bundle, result.summary) == ("prompts", "c" * 64, {"n": 1})


def test_metrics(database: Engine) -> None:
    job_id = submit(database)
    held = claim(database, tasks_of(database, job_id, "prompts")[0])
    assert held
    submit(database, images="other")
    with read_scope(database) as session:
        seen = read_metrics(session)
        waiting = len(list(session.scalars(select(Outbox))))
    assert seen.jobs == {"preparing": 1, "queued": 1}
    assert seen.tasks["prompts", "running"] == 1 and seen.tasks["generate", "waiting"] == 4
    assert seen.queue_depth == {"distil": 0, "evaluate": 0, "export": 0, "generate": 1}
    assert 0 <= seen.lease_ages[held.task_id] < 60 and 0 < seen.lease_left[held.task_id] <= 60
    assert waiting == 2 and seen.oldest_unsent >= 0


def test_a_shard_s_start_and_end_look_at_few_tasks(database: Engine) -> None:
    """However many shards the job has: else a job of n shards would load n * n rows."""
    with session_scope(database) as session:
        job_id = new_job(session, stage_tasks(shards=300)).id
    run(database, job_id, "prompts")
    shard = tasks_of(database, job_id, "generate")[7]
    loaded: list[Task] = []

    def count(task: Task, _context: object) -> None:
        loaded.append(task)

    event.listen(Task, "load", count)
    try:
        held = claim(database, shard)
        assert held
        finish(database, held)
    finally:
        event.remove(Task, "load", count)
    assert 0 < len(loaded) <= 20
