"""Migrations, from Python: the embedded service, the tests and the readiness check use them.

Alembic takes long to import; it is left to whoever migrates or asks whether the database is ready.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

if TYPE_CHECKING:
    from alembic.config import Config

ROOT = Path(__file__).resolve().parents[1]


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database to a revision; nothing happens if it is there."""
    from alembic import command

    command.upgrade(_config(engine), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take migrations back, down to ``revision`` (``base``: all of them)."""
    from alembic import command

    command.downgrade(_config(engine), revision)


@lru_cache(maxsize=1)
def head_revision() -> str | None:
    """The newest revision this code knows."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(ROOT / "migrations")).get_current_head()


def current_revision(engine: Engine) -> str | None:
    """The revision the database is at."""
    from alembic.migration import MigrationContext

    with engine.execution_options(read_only=True).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _config(engine: Engine) -> Config:
    from alembic.config import Config

    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["engine"] = engine
    return config
