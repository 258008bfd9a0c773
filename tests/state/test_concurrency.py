from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from state.claims import claim_task, finish_task
from state.database import make_engine, read_scope, session_scope
from state.errors import StaleToken
from state.events import add_event
from state.jobs import delete_job, get_job, job_tasks
from state.tables import Event, Job
from tests.state.examples import new_job, stage_tasks


def together(*works: Callable[[], object]) -> list[object]:
    """Run all at once; the results, or the exceptions."""
    start = threading.Barrier(len(works))
    results: list[object] = [None] * len(works)

    def run(index: int, work: Callable[[], object]) -> None:
        start.wait()
        try:
            results[index] = work()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_writers_that_read_first(sqlite_url: str) -> None:
    """Deferred transactions fail here at once: each reads, then finds that the other has written."""
    engine = make_engine(sqlite_url)
    with session_scope(engine) as session:
        job_id = new_job(session).id

    def rename() -> None:
        for _ in range(30):
            with session_scope(engine) as session:
                job = session.get_one(Job, job_id)
                session.flush()
                job.attempt += 1

    assert together(rename, rename) == [None, None]
    with read_scope(engine) as session:
        assert session.get_one(Job, job_id).attempt == 61
    engine.dispose()


def test_a_reader_does_not_wait_for_a_writer(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    with session_scope(engine) as writer:
        job_id = new_job(writer).id
        writer.flush()
        with read_scope(engine) as reader:
            assert get_job(reader, job_id) is None
    engine.dispose()


def test_many_claim_one_task(database: Engine) -> None:
    with session_scope(database) as session:
        jobs = [new_job(session).id for _ in range(4)]  # the same keys: twins compete too
        tasks = [job_tasks(session, job_id)[0].id for job_id in jobs]

    def claim(task_id: int) -> Callable[[], object]:
        def work() -> object:
            with session_scope(database) as session:
                return claim_task(session, task_id, "me", 60)

        return work

    claims = together(*(claim(task_id) for task_id in tasks for _ in range(2)))
    assert not [item for item in claims if isinstance(item, Exception)]
    assert len([item for item in claims if item is not None]) == 1


def test_shards_that_finish_together_start_the_next_stage(database: Engine) -> None:
    with session_scope(database) as session:
        job_id = new_job(session, stage_tasks(shards=4)).id
        [prompts, *_] = job_tasks(session, job_id)
        held = claim_task(session, prompts.id, "me", 60)
        assert held
        record(session, held.task_id, held.token)
    with session_scope(database) as session:
        shards = [task for task in job_tasks(session, job_id) if task.stage == "generate"]
        claims = [claim_task(session, task.id, "me", 60) for task in shards]

    first, *others = [held for held in claims if held]
    assert len(others) == 3

    def finish_others() -> None:
        for held in others:
            with session_scope(database) as session:
                record(session, held.task_id, held.token)

    thread = threading.Thread(target=finish_others)
    with session_scope(database) as session:
        record(session, first.task_id, first.token)
        thread.start()
        thread.join(0.5)  # it waits for us; without a lock it would end, having seen the first shard unfinished
    thread.join()
    with read_scope(database) as session:
        assert [task.status for task in job_tasks(session, job_id) if task.stage == "distil"] == ["ready"]


def test_a_task_that_ends_while_its_job_is_deleted_writes_nothing(database: Engine) -> None:
    with session_scope(database) as session:
        job_id = new_job(session).id
        [prompts, *_] = job_tasks(session, job_id)
        held = claim_task(session, prompts.id, "me", 60)
        assert held
        session.get_one(Job, job_id).status = "failed"  # by another task; this one has not noticed yet
    ends: list[object] = []

    def finish() -> None:
        try:
            with session_scope(database) as session:
                record(session, held.task_id, held.token)
        except Exception as error:
            ends.append(error)

    thread = threading.Thread(target=finish)
    with session_scope(database) as session:
        delete_job(session, job_id)
        session.flush()
        thread.start()
        thread.join(0.5)  # it waits for us
    thread.join()
    assert [type(end) for end in ends] == [StaleToken]


def record(session: Session, task_id: int, token: int) -> None:
    finish_task(session, task_id, token, bundle="c" * 64, files={}, summary={}, seconds=1)


def test_a_reader_of_events_misses_none(database: Engine) -> None:
    """Ids are given before commits: without a lock, a reader could see 7 and then never look at 6 again."""
    with session_scope(database) as session:
        job_id = new_job(session).id
    over = threading.Event()

    def write() -> None:
        for _ in range(40):
            with session_scope(database) as session:
                add_event(session, job_id, "log", "line")

    def write_all() -> None:
        together(write, write, write)
        over.set()

    def read() -> list[int]:
        seen: list[int] = []
        last_round = False
        while not last_round:
            last_round = over.is_set()
            with read_scope(database) as session:
                newer = select(Event.id).where(Event.job_id == job_id, Event.id > max(seen, default=0))
                seen += session.scalars(newer.order_by(Event.id))
        return seen

    _, seen = together(write_all, read)
    assert isinstance(seen, list) and len(seen) == 121


@pytest.mark.parametrize("same_body", [True, False])
def test_the_same_idempotency_key_at_the_same_time(database: Engine, same_body: bool) -> None:
    def submit(body: str) -> Callable[[], object]:
        def work() -> object:
            with session_scope(database) as session:
                return new_job(session, idempotency_key="key", body_hash=body * 64).id

        return work

    results = together(submit("1"), submit("1" if same_body else "2"))
    with read_scope(database) as session:
        [job_id] = session.scalars(select(Job.id))
    if same_body:
        assert results == [job_id, job_id]
    else:
        assert job_id in results
        assert sorted(type(result).__name__ for result in results) == ["IdempotencyConflict", "str"]
