"""docker-compose.yml and Dockerfile against the code: no Docker engine is needed, so they cannot rot unnoticed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from api.app import create_app
from state.settings import Settings
from workers.celery_app import QUEUE_NAMES

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TARGETS = {target: parent for parent, target in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
"""Build stages and what each is made from."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return content


def instructions(target: str) -> list[str]:
    """Instructions of a build stage and of the stages it is made from."""
    blocks = re.split(r"^(?=FROM )", DOCKERFILE.replace("\\\n", " "), flags=re.MULTILINE)
    own = next(block for block in blocks if re.match(rf"FROM \S+ AS {target}$", block, re.MULTILINE))
    lines = [line for line in own.splitlines()[1:] if line and not line.startswith("#")]
    parent = TARGETS[target]
    return (instructions(parent) if parent in TARGETS else []) + lines


def test_every_built_service_names_a_stage_of_the_dockerfile(compose: dict[str, Any]) -> None:
    built = {name: item["build"]["target"] for name, item in compose["services"].items() if "build" in item}
    assert built == {
        "migrate": "migrate",
        "api": "api",
        "janitor": "api",
        "worker-cpu": "worker",
        "worker-gpu": "worker",
    }
    assert set(built.values()) <= set(TARGETS)


def test_every_copied_path_exists() -> None:
    sources = [source for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()]
    assert len(sources) >= 10
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_settings_in_the_environment_exist(compose: dict[str, Any]) -> None:
    known = {f"STILLROOM_{name.upper()}" for name in Settings.model_fields}
    for name, service in compose["services"].items():
        given = {key for key in service.get("environment", {}) if key.startswith("STILLROOM_")}
        assert given <= known, name
        assert "build" not in service or service["env_file"] == [{"path": ".env", "required": False}], name
    values = compose["services"]["api"]["environment"]
    settings = Settings(
        database_url=values["STILLROOM_DATABASE_URL"],
        broker_url=values["STILLROOM_BROKER_URL"],
        blobs_url=values["STILLROOM_BLOBS_URL"],
        home=values["STILLROOM_HOME"],
    )
    assert settings.database_url.startswith("postgresql+psycopg://")
    assert settings.broker_url.startswith("redis://")


def filled(text: str, **environment: str) -> str:
    """Compose's ``${NAME:-default}``, filled in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1]) or match[2], text)


@pytest.mark.parametrize(
    ("environment", "published", "warned"),
    [
        ({}, "127.0.0.1:8321:8321", False),
        ({"STILLROOM_HOST": "0.0.0.0", "STILLROOM_PORT": "80"}, "0.0.0.0:80:8321", True),
        ({"STILLROOM_HOST": "0.0.0.0", "STILLROOM_API_KEY": "sesame"}, "0.0.0.0:8321:8321", False),
    ],
)
def test_the_api_is_published_on_this_machine_only_unless_told_and_warns_of_an_open_door(
    compose: dict[str, Any],
    environment: dict[str, str],
    published: str,
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = compose["services"]["api"]
    assert [filled(port, **environment) for port in api["ports"]] == [published]
    told = {
        name: filled(api["environment"][f"STILLROOM_{name.upper()}"], **environment) for name in ("host", "api_key")
    }
    with TestClient(create_app(Settings(home=tmp_path, **told))):
        pass
    assert ("whoever reaches this port" in caplog.text) is warned


def test_the_image_alone_says_where_it_listens() -> None:
    lines = instructions("api")
    (host,) = [line.removeprefix("ENV STILLROOM_HOST=") for line in lines if line.startswith("ENV STILLROOM_HOST=")]
    assert f'"--host", "{host}"' in lines[-1]


def test_the_database_is_migrated_once_before_anything_starts(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["restart"] == "no"
    for name in ("api", "janitor", "worker-cpu", "worker-gpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully", name
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy", name
    assert any("alembic" in line for line in instructions("migrate") if line.startswith("CMD"))


def test_health_checks_and_named_volumes(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert name == "migrate" or service["healthcheck"]["test"], name
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "/"))
    }
    assert used == set(compose["volumes"])


def test_volumes_belong_to_the_user_who_writes_there(compose: dict[str, Any]) -> None:
    """A named volume mounted where the image has no folder belongs to root."""
    seen = set()
    for name, service in compose["services"].items():
        if "build" not in service:
            continue
        lines = instructions(service["build"]["target"])
        (user,) = [line.removeprefix("USER ") for line in lines if line.startswith("USER ")]
        before = "\n".join(lines[: lines.index(f"USER {user}")])
        made = {path for paths in re.findall(r"mkdir -p ([^&\n]+)", before) for path in paths.split()}
        owned = {path for paths in re.findall(rf"chown -R {user} ([^&\n]+)", before) for path in paths.split()}
        for volume in service["volumes"]:
            target = volume.split(":")[1]
            assert target in made, f"{name}: {target} is not created"
            assert owned & {target, *map(str, Path(target).parents)}, f"{name}: {target} is not {user}'s"
            seen.add(target)
    assert seen == {"/data", "/home/stillroom/.cache/huggingface"}


def test_the_gpu_worker_reserves_its_device_and_has_shared_memory(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert worker["profiles"] == ["gpu"]
    assert device["capabilities"] == ["gpu"]
    assert bool(device.get("device_ids")) != bool(device.get("count"))
    for name in ("worker-gpu", "worker-cpu"):
        assert compose["services"][name]["shm_size"].endswith("gb"), name
        grace = int(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace > Settings().grace_seconds, name
    assert "profiles" not in compose["services"]["worker-cpu"]


def test_every_worker_takes_from_all_queues() -> None:
    command = json.loads(instructions("worker")[-1].removeprefix("CMD "))
    assert command[:3] == ["python", "-m", "celery"], "its children find our packages where `python -m` looks for them"
    assert set(command[command.index("--queues") + 1].split(",")) == set(QUEUE_NAMES)


@pytest.mark.parametrize("path", ["docker-compose.yml", "docs/operations.md"])
def test_no_cpu_worker_is_started_beside_a_gpu_worker(path: str) -> None:
    """It would take a share of the images."""
    commands = re.findall(r"docker compose [^`#\n]*--profile gpu[^`#\n]*", (ROOT / path).read_text(encoding="utf-8"))
    assert commands and all("--scale worker-cpu=0" in command for command in commands)


def test_the_api_image_has_no_torch_and_the_worker_has() -> None:
    installed = {target: " ".join(instructions(target)) for target in ("api", "worker")}
    assert "requirements/api.txt" in installed["api"] and "requirements/worker.txt" not in installed["api"]
    assert "requirements/worker.txt" in installed["worker"]
    locked = {
        name: set(re.findall(r"^([a-z0-9-]+)==", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
        for name in ("api", "worker")
    }
    assert not locked["api"] & {"torch", "torchvision", "open-clip-torch", "diffusers", "transformers", "timm"}
    assert {"torch", "open-clip-torch", "diffusers"} <= locked["worker"]


def test_commands_run_modules_that_exist(compose: dict[str, Any]) -> None:
    commands = [
        " ".join(item["command"]) for item in compose["services"].values() if "build" in item and "command" in item
    ]
    commands += [
        " ".join(item["healthcheck"]["test"]) for item in compose["services"].values() if "healthcheck" in item
    ]
    commands += [line for target in TARGETS for line in instructions(target) if line.startswith("CMD")]
    text = "\n".join(commands)
    modules = set(re.findall(r"\b((?:workers|api)\.\w+)", text))
    assert {"workers.celery_app", "workers.janitor", "workers.alive", "api.app"} <= modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_locked_requirements_name_no_host_and_are_hashed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text
    pinned = re.findall(r"^[a-z0-9.-]+(?:\[[^\]]+\])?==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert text.count("--hash=sha256:") >= len(pinned)
