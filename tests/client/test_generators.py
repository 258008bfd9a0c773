"""`stillroom generators` and its SDK against the real API."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from stillroom.client import Stillroom
from stillroom.errors import Conflict, Invalid, NotFound

from tests.api.conftest import Service
from tests.api.seeds import CLASSES, finish_job, picture, recipe
from tests.client.conftest import Run


@pytest.fixture(scope="module")
def url(real: Service) -> str:
    return str(real.http.base_url)


@pytest.fixture(scope="module")
def dataset(service: Stillroom, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photos") / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(CLASSES):
            archive.writestr(f"{name}/0.jpg", picture((60 * number, 20, 90)))
    return str(service.add_dataset(path)["id"])


def finish(real: Service, job_id: str) -> None:
    finish_job(real.engine, real.blobs, job_id, real.scratch)


def test_the_sdk(real: Service, service: Stillroom, dataset: str, tmp_path: Path) -> None:
    made = service.train_generator({"name": "sdk", "dataset": dataset}, idempotency_key="sdk-1")
    assert service.train_generator({"name": "sdk", "dataset": dataset}, idempotency_key="sdk-1")["id"] == made["id"]
    with pytest.raises(Conflict, match="it is queued"):
        service.download_generator(made["id"], tmp_path)
    with pytest.raises(Conflict, match="cancel it"):
        service.delete_generator(made["id"])
    finish(real, made["job_id"])
    assert service.wait(made["job_id"])["generator_id"] == made["id"]
    told: list[int] = []
    paths = service.download_generator(made["id"], tmp_path / "out", lambda file, size: told.append(size))
    files = {file["name"]: file for file in service.generator(made["id"])["files"]}
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in paths) == sorted(files)
    for name, file in files.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == file["sha256"]
    assert max(told) == max(file["size"] for file in files.values())
    job = service.submit(recipe(data={"generator": {"model": made["id"]}}))
    service.cancel(job["id"])
    assert made["id"] in [row["id"] for row in service.generators()]
    service.delete_generator(made["id"])
    with pytest.raises(NotFound):
        service.generator(made["id"])


def test_the_command(real: Service, run: Run, url: str, dataset: str, tmp_path: Path) -> None:
    written = tmp_path / "generator.yaml"
    written.write_text(f"name: written\ndataset: {dataset}\nminutes: 5\n")
    done = run(url, "generators", "submit", written, "--seed", 7, "--steps", 5, "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert (made["name"], made["recipe"]["steps"], made["recipe"]["seed"]) == ("written", 5, 7)
    shown = run(url, "generators", "show", made["id"])
    assert f"events {made['job_id']}" in shown.stdout
    finish(real, made["job_id"])
    shown = run(url, "generators", "show", made["id"]).stdout
    assert all(text in shown for text in ("75.0%", "50.0%", "0.1250", "0.2100", "model_index.json"))
    assert made["id"] in run(url, "generators", "list").stdout and made["id"] in run(url, "jobs").stdout
    assert "75.0%" in run(url, "report", made["job_id"]).stdout
    fetched = run(url, "generators", "download", made["id"], "--to", tmp_path / "out", "--json")
    assert len(json.loads(fetched.stdout)["files"]) == 4 and (tmp_path / "out" / "model_index.json").is_file()
    assert run(url, "generators", "delete", made["id"]).exit_code == 0
    assert run(url, "generators", "show", made["id"]).exit_code == 4


def test_wrong_input(run: Run, url: str, service: Stillroom) -> None:
    assert run(url, "generators", "submit", "--name", "alone").exit_code == 2
    done = run(url, "generators", "submit", "--name", "x", "--dataset", "ds_none", "--image-size", 50)
    assert done.exit_code == 2 and "size" in done.stderr
    with pytest.raises(Invalid) as raised:
        service.train_generator({"name": "x", "dataset": "ds_none"})
    assert [item.field for item in raised.value.fields] == ["dataset"]
