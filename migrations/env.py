"""Alembic's entry: ``alembic upgrade head`` on the database of the settings, or on an engine handed over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from state.database import default_engine
from state.tables import Table, UTCDateTime

ONE_AT_A_TIME = 7_110_413_007  # an arbitrary number that names this lock in the database


def run() -> None:
    engine = context.config.attributes.get("engine") or default_engine()
    with engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            # Batch mode drops and remakes tables; with foreign keys on, that would delete the rows that refer to them.
            set_foreign_keys(connection, "OFF")
        context.configure(
            connection=connection,
            target_metadata=Table.metadata,
            render_as_batch=True,
            compare_type=True,
            transactional_ddl=True,
            render_item=render_item,
        )
        try:
            with context.begin_transaction():
                if not sqlite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})")
                context.run_migrations()
                if sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
                    raise RuntimeError(f"the migration left {len(broken)} rows that refer to nothing: {broken[:5]}")
        finally:
            if sqlite:
                set_foreign_keys(connection, "ON")


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Migrations outlive the code: they name SQLAlchemy's types, not ours."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UTCDateTime) else False


def set_foreign_keys(connection: Connection, value: str) -> None:
    """Has an effect outside a transaction only, hence past SQLAlchemy, which would begin one."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    cursor = driver.cursor()
    cursor.execute(f"PRAGMA foreign_keys={value}")
    cursor.close()


run()
