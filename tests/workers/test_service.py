"""The parts together: a real broker, real worker processes, a janitor."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from sqlalchemy import Engine

from state.claims import claim_task
from state.database import make_engine, session_scope
from state.outbox import mark_published, unpublished
from tests.workers.conftest import House, janitor, wait_until
from tests.workers.processes import is_alive, janitor_process, worker
from workers.celery_app import QUEUE_NAMES, RUN_TASK, make_app
from workers.dispatch import broker_answers, publish_outbox, queue_length
from workers.janitor import run_round

ENDED = {"succeeded", "failed", "cancelled"}


@pytest.fixture
def celery(redis_url: str, house_of: Callable[..., House], sqlite_url: str) -> Iterator[Celery]:
    """A Celery application on the tests' Redis, whose queues are empty."""
    app = make_app(house_of(make_engine(sqlite_url), broker_url=redis_url).settings)
    with app.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    yield app
    app.close()


def on_redis(house_of: Callable[..., House], engine: Engine, redis_url: str, **settings: object) -> House:
    return house_of(engine, broker_url=redis_url, **settings)


def ended(house: House, *job_ids: str) -> bool:
    return all(house.job(job_id).status in ENDED for job_id in job_ids)


def test_a_job_runs_by_itself(house_of: Callable[..., House], database: Engine, redis_url: str, celery: Celery) -> None:
    house = on_redis(house_of, database, redis_url)
    job_id = house.submit()
    assert publish_outbox(house.engine, celery) == 1
    with worker(house.settings):
        wait_until(lambda: ended(house, job_id))
    assert house.job(job_id).status == "succeeded"
    assert [task.attempt for task in house.tasks(job_id)] == [1] * 6


def test_a_job_runs_with_its_blobs_in_a_bucket(
    house_of: Callable[..., House], sqlite_url: str, redis_url: str, celery: Celery, s3_url: str
) -> None:
    house = on_redis(house_of, make_engine(sqlite_url), redis_url, blobs_url=s3_url)
    job_id = house.submit()
    publish_outbox(house.engine, celery)
    with worker(house.settings):
        wait_until(lambda: ended(house, job_id))
    assert house.job(job_id).status == "succeeded"
    assert len(set(house.blobs.stored())) > 6, "files and bundles of six tasks"


def test_doubled_and_lost_messages_change_nothing(
    house_of: Callable[..., House], sqlite_url: str, redis_url: str, celery: Celery
) -> None:
    house = on_redis(house_of, make_engine(sqlite_url), redis_url)
    doubled, lost = house.submit(), house.submit(images="other", shards=1)
    [first] = house.tasks(doubled, "prompts")
    with session_scope(house.engine) as session:  # as if they had been sent and a broker had lost them
        mark_published(session, [message.id for message in unpublished(session)])
    for _ in range(3):
        celery.send_task(RUN_TASK, args=[first.id], queue="generate")
    celery.send_task(RUN_TASK, args=[999_999], queue="generate")
    with worker(house.settings), janitor(house):
        wait_until(lambda: ended(house, doubled, lost))
    for job_id in (doubled, lost):
        assert house.job(job_id).status == "succeeded"
        assert {task.attempt for task in house.tasks(job_id)} == {1}


def test_a_killed_worker_is_replaced(
    house_of: Callable[..., House], database: Engine, redis_url: str, celery: Celery
) -> None:
    house = on_redis(house_of, database, redis_url, lease_seconds=5)
    job_id = house.submit("generate=slow", shards=1)
    publish_outbox(house.engine, celery)
    with worker(house.settings, "first") as first:
        wait_until(lambda: house.events(job_id, "checkpoint"))
        [generate] = house.tasks(job_id, "generate")
        child = int((house.settings.scratch / generate.key / "attempts").read_text())
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_until(lambda: not is_alive(child))  # it does not outlive its worker
    assert house.tasks(job_id, "generate")[0].status == "running"
    with worker(house.settings, "second"), janitor_process(house.settings):
        wait_until(lambda: ended(house, job_id))
    assert house.job(job_id).status == "succeeded"
    [generate] = house.tasks(job_id, "generate")
    assert generate.attempt >= 2
    assert generate.summary and generate.summary["resumed_from"] > 0


def test_a_worker_that_is_stopped_gives_its_task_back(
    house_of: Callable[..., House], sqlite_url: str, redis_url: str, celery: Celery
) -> None:
    house = on_redis(house_of, make_engine(sqlite_url), redis_url)
    job_id = house.submit("prompts=slow")
    publish_outbox(house.engine, celery)
    with worker(house.settings) as process:
        wait_until(lambda: house.events(job_id, "checkpoint"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    [prompts] = house.tasks(job_id, "prompts")
    assert (prompts.status, prompts.attempt) == ("ready", 0)
    assert queue_length(celery, "generate") == 1  # announced again, or redelivered: another worker goes on


def test_a_retry_is_announced_though_its_queue_is_not_empty(
    house_of: Callable[..., House], database: Engine, redis_url: str, celery: Celery
) -> None:
    house = on_redis(house_of, database, redis_url)
    job_id = house.submit("prompts=flaky")
    [prompts] = house.tasks(job_id, "prompts")
    publish_outbox(house.engine, celery)  # nobody takes it: a backlog
    assert house.work(prompts) == "failed"
    for _ in range(3):
        run_round(house.engine, celery, house.settings)
    assert queue_length(celery, "generate") == 2, "once, and again for the retry"
    house.work_all(job_id)
    assert house.job(job_id).status == "succeeded"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_jobs_with_the_same_images_make_them_once(
    house_of: Callable[..., House], database: Engine, redis_url: str, celery: Celery
) -> None:
    house = on_redis(house_of, database, redis_url)
    jobs = [house.submit("prompts=slow", student=student, shards=1) for student in ("one", "two")]
    publish_outbox(house.engine, celery)
    with worker(house.settings, "one"), worker(house.settings, "two"), janitor(house):
        wait_until(lambda: ended(house, *jobs))
    assert [house.job(job_id).status for job_id in jobs] == ["succeeded", "succeeded"]
    for stage in ("prompts", "generate"):
        tasks = [task for job_id in jobs for task in house.tasks(job_id, stage)]
        assert sorted(task.reused for task in tasks) == [False, True], stage


def test_the_janitor_gives_up_on_a_task_that_kills_its_workers(house: House, celery: Celery) -> None:
    house.settings.max_attempts = 1
    job_id = house.submit()
    [prompts] = house.tasks(job_id, "prompts")
    with session_scope(house.engine) as session:
        assert claim_task(session, prompts.id, "lost", 0)
    run_round(house.engine, celery, house.settings)
    error = house.job(job_id).error
    assert error and error["code"] == "worker_lost" and "silent" in error["message"]


def test_without_a_broker_messages_wait(house_of: Callable[..., House], sqlite_url: str) -> None:
    house = house_of(make_engine(sqlite_url), broker_url="redis+socket:///nowhere/redis.sock")
    away = make_app(house.settings)
    house.submit()
    assert publish_outbox(house.engine, away) == 0
    assert not broker_answers(away)
    with session_scope(house.engine) as session:
        assert len(unpublished(session)) == 1
    run_round(house.engine, away, house.settings)  # does not raise
    away.close()


def test_files_carry_messages_where_there_is_no_redis(house_of: Callable[..., House], sqlite_url: str) -> None:
    house = house_of(make_engine(sqlite_url))
    assert house.settings.broker_url.startswith("filesystem://")
    files = make_app(house.settings)
    assert broker_answers(files) and queue_length(files, "generate") == 0
    job_id = house.submit(shards=1)
    assert publish_outbox(house.engine, files) == 1
    assert queue_length(files, "generate") == 1
    with worker(house.settings), janitor(house):
        wait_until(lambda: ended(house, job_id))
    assert house.job(job_id).status == "succeeded"
    files.close()


def test_the_visibility_timeout_is_set_where_redis_looks(celery: Celery) -> None:
    conf = celery.conf
    places = [
        conf.visibility_timeout,
        conf.broker_transport_options["visibility_timeout"],
        conf.result_backend_transport_options["visibility_timeout"],
    ]
    assert len(set(places)) == 1 and places[0] >= 3600
    assert conf.task_acks_late and conf.worker_prefetch_multiplier == 1 and conf.broker_connection_retry_on_startup
    assert {queue.name for queue in conf.task_queues} == set(QUEUE_NAMES)
