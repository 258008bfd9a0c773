from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select

from distillation.plan import StageTask
from state.claims import claim_task, finish_task
from state.database import database_now, make_engine, session_scope
from state.jobs import create_job, job_tasks
from state.migrate import current_revision, downgrade, head_revision, upgrade
from state.tables import Checkpoint, Dataset, Generator, Job, Result, Table, Task
from tests.state.examples import GENERATOR_RECIPE, new_job, stage_tasks

BOTH = pytest.mark.parametrize("empty_database_url", ["sqlite", "postgresql"], indirect=True)


@BOTH
def test_up_down_up(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    assert current_revision(engine) is None
    upgrade(engine)
    assert current_revision(engine) == head_revision()
    assert set(Table.metadata.tables) <= set(inspect(engine).get_table_names())
    with session_scope(engine) as session:
        new_job(session)
    downgrade(engine, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    upgrade(engine)
    with session_scope(engine) as session:
        new_job(session)
    engine.dispose()


@BOTH
def test_back_before_generators(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    upgrade(engine)
    with session_scope(engine) as session:
        kept = new_job(session).id
        task = StageTask("generator", 0, "0" * 64, ())
        job = create_job(session, GENERATOR_RECIPE, tasks=[task])
        [row] = job_tasks(session, job.id)
        claim = claim_task(session, row.id, "test", 60)
        assert claim is not None
        finish_task(session, row.id, claim.token, bundle="1" * 64, files={}, summary={}, seconds=1)
        assert session.get_one(Generator, job.generator_id).bundle == "1" * 64
    downgrade(engine, "0001")
    assert "generators" not in inspect(engine).get_table_names()
    upgrade(engine)
    with session_scope(engine) as session:
        assert list(session.scalars(select(Job.id))) == [kept]
        assert list(session.scalars(select(Result.key))) == []
        assert set(session.scalars(select(Task.job_id))) == {kept}
    engine.dispose()


@BOTH
def test_checkpoints_of_earlier_trainings_are_let_go(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    upgrade(engine)
    with session_scope(engine) as session:
        tasks = job_tasks(session, new_job(session, stage_tasks()[:1] + stage_tasks("others")[1:2]).id)
        for task in tasks:
            saved = {"step": 1, "path": "c", "metrics": {}, "bundle": "1" * 64, "created_at": database_now(session)}
            session.add(Checkpoint(job_id=task.job_id, task_id=task.id, key=task.key, **saved))
        done = {"stage": "prompts", "bundle": "2" * 64, "seconds": 1.0, "summary": {}, "files": {}}
        session.add(Result(key=tasks[0].key, **done, created_at=database_now(session)))
    downgrade(engine, "0002")
    upgrade(engine)
    with session_scope(engine) as session:
        kept = {row.task_id: row.bundle for row in session.scalars(select(Checkpoint))}
    assert kept == {tasks[0].id: None, tasks[1].id: "1" * 64}
    engine.dispose()


@BOTH
def test_photos_left_out_of_earlier_datasets_are_counted(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url)
    upgrade(engine)
    listed = [{"file": f"{number}.jpg", "reason": "broken"} for number in range(3)]
    with session_scope(engine) as session:
        kept = {"images": 1, "classes": [], "bundle": "0" * 64, "size": 1, "created_at": database_now(session)}
        session.add(Dataset(id="ds_1", name="some", rejected=listed, **kept))
        session.add(Dataset(id="ds_2", name="none", rejected=[], **kept))
    downgrade(engine, "0003")
    upgrade(engine)
    with session_scope(engine) as session:
        counted = {row.name: row.rejected_count for row in session.scalars(select(Dataset))}
    assert counted == {"some": 3, "none": 0}
    engine.dispose()


def test_migrations_and_tables_agree(database: Engine) -> None:
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_foreign_keys_are_on_after_a_migration(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()
