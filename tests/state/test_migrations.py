from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, select

from distillation.plan import StageTask
from state.claims import claim_task, finish_task
from state.database import make_engine, session_scope
from state.jobs import create_job, job_tasks
from state.migrate import current_revision, downgrade, head_revision, upgrade
from state.tables import Generator, Job, Result, Table, Task
from tests.state.examples import GENERATOR_RECIPE, new_job

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
