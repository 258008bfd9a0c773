from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from state.database import make_engine, session_scope
from state.migrate import current_revision, downgrade, head_revision, upgrade
from state.tables import Table
from tests.state.examples import new_job

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
