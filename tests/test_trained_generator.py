"""Photos to generator to encoder, through the API, a worker's supervisor and real stage processes."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from state.database import read_scope
from state.settings import Settings
from state.tables import Task
from tests.api.conftest import Service, serve
from tests.api.test_datasets import upload
from tests.distillation.generator_photos import COLOURS, write_photos
from tests.models_fixtures import teacher_folder, tokenizer_folder
from workers.supervisor import run_task

__all__ = ["teacher_folder", "tokenizer_folder"]
ROOM = 2400
"""Seconds that end a test that would hang."""


def work(service: Service, job_id: str) -> dict[str, Any]:
    """Run the job's tasks, one after the other, until none is ready."""
    query = select(Task.id).where(Task.job_id == job_id, Task.status == "ready").order_by(Task.id).limit(1)
    while True:
        with read_scope(service.engine) as session:
            task = session.scalar(query)
        if task is None:
            return dict(service.http.get(f"/v1/jobs/{job_id}").json())
        where = {"engine": service.engine, "blobs": service.blobs, "settings": service.settings}
        run_task(task, **where, shutdown=threading.Event())


def zipped(folder: Path, tmp_path: Path) -> bytes:
    return Path(shutil.make_archive(str(tmp_path / "photos"), "zip", folder)).read_bytes()


@pytest.mark.timeout(ROOM)
@pytest.mark.usefixtures("preloaded_stages")
def test_a_generator_is_trained_and_draws_the_images_of_a_job(teacher_folder: Path, tmp_path: Path) -> None:
    teacher = {"model": str(teacher_folder)}
    with serve(Settings(home=tmp_path / "home"), tmp_path / "scratch") as service:
        ds = upload(service, zipped(write_photos(tmp_path / "photos"), tmp_path)).json()["id"]
        body = {"name": "things", "dataset": ds, "teacher": teacher, "size": 32, "steps": 2, "batch_size": 16}
        queued = service.http.post("/v1/generators", json={**body, "licence": "made in this test"}).json()
        job = work(service, queued["job_id"])
        assert job["status"] == "succeeded", job["error"]
        generator = service.http.get(f"/v1/generators/{queued['id']}").json()
        photos = generator["report"]["photos"]
        assert (
            16 <= photos["training"] <= 28 and photos["held_out"] == 4
        )  # of 28, what the teacher knows, half at least
        assert generator["report"]["training"]["steps"] == 2
        card = next(file for file in generator["files"] if file["name"] == "README.md")
        assert "made in this test" in service.http.get(card["url"]).text
        events = service.http.get(f"/v1/jobs/{queued['job_id']}/events").json()["data"]
        assert {"status", "stage", "progress", "checkpoint"} <= {event["type"] for event in events}

        recipe = {
            "domain": {"name": "things", "classes": list(COLOURS)[:2]},
            "student": {"architecture": "test_resnet", "image_size": 32, "init": "scratch"},
            "teacher": teacher,
            "data": {
                "generator": {"model": queued["id"]},
                "images_per_class": 8,
                "shard_size": 16,
                "filter": {"teacher_agrees": False, "near_constant": False},
            },
            "training": {"steps": 2, "batch_size": 8, "views": 1},
            "evaluation": {"latency": False},
            "exports": {"onnx": False, "int8": False},
        }
        submitted = service.http.post("/v1/jobs", json={"recipe": recipe})
        assert submitted.status_code == 202, submitted.text
        done = work(service, submitted.json()["id"])
        assert done["status"] == "succeeded", done["error"]
        samples = service.http.get(f"/v1/jobs/{done['id']}/samples").json()["data"]
        assert {sample["class"] for sample in samples} == set(list(COLOURS)[:2])
        files = service.http.get(f"/v1/encoders/{done['encoder_id']}").json()["files"]
        card = next(file for file in files if file["name"] == "README.md")
        text = service.http.get(card["url"]).text
        assert queued["id"] in text and "made in this test" in text

        other = {**recipe, "data": {**recipe["data"], "seed": 5}}
        failing = service.http.post("/v1/jobs", json={"recipe": other}).json()
        service.http.post(f"/v1/jobs/{failing['id']}/cancel")
        assert service.http.delete(f"/v1/generators/{queued['id']}").status_code == 204
        service.http.post(f"/v1/jobs/{failing['id']}/retry")
        error = work(service, failing["id"])["error"]
        assert (error["code"], error["field"]) == ("weights_missing", "data.generator.model")
