from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from state.ids import new_id
from state.settings import Settings, environment


def test_everything_follows_from_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/stillroom.db"
    assert settings.broker_url == f"filesystem://{tmp_path}/broker"
    assert settings.blobs_url == f"{tmp_path}/blobs"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_PORT", "9000")
    monkeypatch.setenv("STILLROOM_API_KEY", "")
    monkeypatch.setenv("STILLROOM_STAGE_ENTRY", "my.stages:main")
    settings = Settings()
    assert (settings.port, settings.api_key, settings.stage_entry) == (9000, None, "my.stages:main")
    assert environment(broker_url="redis://x")["STILLROOM_BROKER_URL"] == "redis://x"


def test_a_heartbeat_fits_into_a_lease() -> None:
    with pytest.raises(ValidationError, match="at most half of lease_seconds"):
        Settings(lease_seconds=10, heartbeat_seconds=6)


def test_ids_sort_by_time() -> None:
    ids = [new_id("job") for _ in range(100)]
    assert len(set(ids)) == 100 and all(len(item) == 30 for item in ids)
    assert [item[:14] for item in ids] == sorted(item[:14] for item in ids)
