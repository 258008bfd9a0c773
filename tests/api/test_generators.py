"""``/v1/generators``: trained by a job, downloaded, named in recipes, deleted with their blobs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from state.claims import claim_task
from state.database import read_scope, session_scope
from state.garbage import sweep
from state.tables import Event, Generator, Task
from tests.api.conftest import Service
from tests.api.seeds import CLASSES, GENERATOR_REPORT, recipe
from tests.api.test_datasets import photos, upload, zipped

UNET = "unet/diffusion_pytorch_model.safetensors"


def dataset(service: Service, names: list[str] = CLASSES) -> str:
    return str(upload(service, zipped(photos(names))).json()["id"])


def submit(service: Service, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return service.http.post("/v1/generators", json={"name": "things", "steps": 2, **fields}, headers=headers)


def drawn_by(generator_id: str) -> dict[str, Any]:
    return {"recipe": recipe(data={"images_per_class": 12, "shard_size": 16, "generator": {"model": generator_id}})}


def test_life_of_a_generator(any_service: Service) -> None:
    http, ds = any_service.http, dataset(any_service)
    answer = submit(any_service, dataset=ds, licence="CC0-1.0")
    assert answer.status_code == 202, answer.text
    queued = answer.json()
    path = f"/v1/generators/{queued['id']}"
    assert answer.headers["location"] == path and http.get(path).json() == queued
    assert (queued["status"], queued["progress"], queued["report"], queued["files"]) == ("queued", 0, None, [])
    assert (queued["recipe"]["batch_size"], queued["image_size"], queued["dataset"]) == (64, 64, ds)
    job = http.get(f"/v1/jobs/{queued['job_id']}").json()
    assert (job["kind"], job["generator_id"], job["domain"]) == ("generator", queued["id"], None)
    assert [stage["stage"] for stage in job["stages"]] == ["generator"]

    # Nothing can be done with it before it is trained.
    assert http.get(f"{path}/archive").status_code == 409
    assert http.get(f"{path}/files/model_index.json").status_code == 404
    assert http.get(f"/v1/jobs/{job['id']}/report").status_code == 404
    (error,) = http.post("/v1/jobs", json=drawn_by(queued["id"])).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/recipe/data/generator/model", "unfinished_generator")
    assert http.delete(path).status_code == 409 and job["id"] in http.delete(f"/v1/datasets/{ds}").json()["detail"]

    assert any_service.finish(job["id"])["status"] == "succeeded"
    trained = http.get(path).json()
    assert (trained["status"], trained["report"]) == ("succeeded", GENERATOR_REPORT)
    assert (trained["classes"], trained["teacher_acc1"]) == (3, 0.75)
    assert [file["name"] for file in trained["files"]] == ["README.md", "model_index.json", "report.json", UNET]
    assert trained["size"] == sum(file["size"] for file in trained["files"])
    (listed,) = http.get("/v1/generators").json()["data"]
    assert listed == {name: trained[name] for name in listed}
    assert http.get(f"/v1/jobs/{job['id']}/report").json() == GENERATOR_REPORT
    assert http.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"] == trained["files"]
    (row,) = [row for row in http.get("/v1/catalogue/generators").json()["data"] if row["model"] == queued["id"]]
    assert (row["steps"], row["guidance"], row["size"], row["licence"]) == (1, 0.0, 64, "CC0-1.0")
    assert row["classes"] == trained["report"]["taught"]

    user = http.post("/v1/jobs", json=drawn_by(queued["id"])).json()
    wanted = user["recipe"]["data"]["generator"]
    assert (wanted["steps"], wanted["guidance"], wanted["licence"]) == (1, 0.0, "CC0-1.0")
    refused = http.delete(path)
    assert refused.status_code == 409 and user["id"] in refused.json()["detail"]
    assert http.delete(f"/v1/jobs/{job['id']}").json() == refused.json(), "it would go with its job"
    http.post(f"/v1/jobs/{user['id']}/cancel")

    assert sweep(any_service.engine, any_service.blobs, min_age_seconds=-60) == 0  # it is alive
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == http.delete(path).status_code == 404
    assert http.get(f"/v1/jobs/{job['id']}").status_code == 404
    with read_scope(any_service.engine) as session:
        for table in (Task, Event):
            assert session.scalars(select(table.id).where(table.job_id == job["id"])).all() == []
    sweep(any_service.engine, any_service.blobs, min_age_seconds=-60)
    assert not any(any_service.blobs.exists(file["sha256"]) for file in trained["files"])
    (error,) = http.post("/v1/jobs", json=drawn_by(queued["id"])).json()["errors"]
    assert error["code"] == "unknown_generator"


def test_files_come_in_parts_and_whole(service: Service) -> None:
    queued = submit(service, dataset=dataset(service), name="files").json()
    service.finish(queued["job_id"])
    generator = service.http.get(f"/v1/generators/{queued['id']}").json()
    file = next(file for file in generator["files"] if file["name"] == UNET)
    whole = service.http.get(file["url"])
    assert whole.headers["etag"] == f'"{file["sha256"]}"' and len(whole.content) == file["size"]
    part = service.http.get(file["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert service.http.get(file["url"], headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = service.http.head(file["url"])
    assert (head.status_code, int(head.headers["content-length"])) == (200, file["size"])
    archive = service.http.get(generator["archive_url"])
    with zipfile.ZipFile(io.BytesIO(archive.content)) as packed:
        assert packed.read(f"{queued['id']}/{UNET}") == whole.content and len(packed.namelist()) == 4
    tagged = {"If-None-Match": archive.headers["etag"]}
    assert service.http.get(generator["archive_url"], headers=tagged).status_code == 304
    assert service.http.get(f"/v1/generators/{queued['id']}/files/../x").status_code == 404


def test_the_same_key_gives_the_same_generator(service: Service) -> None:
    ds, headers = dataset(service), {"Idempotency-Key": "train-once"}
    first, again = (submit(service, headers, dataset=ds) for _ in range(2))
    assert again.json() == first.json() and again.headers["idempotent-replay"] == "true"
    other = submit(service, headers, dataset=ds, seed=1)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_an_output_is_made_once_and_lives_as_long_as_one_names_it(service: Service) -> None:
    ds = dataset(service)
    first = submit(service, dataset=ds, name="shared").json()
    service.finish(first["job_id"])
    second = submit(service, dataset=ds, name="shared").json()
    assert (second["status"], second["teacher_acc1"]) == ("succeeded", 0.75)
    assert second["id"] != first["id"] and len(second["files"]) == 4
    assert service.http.delete(f"/v1/generators/{first['id']}").status_code == 204
    sweep(service.engine, service.blobs, min_age_seconds=-60)
    assert service.http.get(second["files"][0]["url"]).status_code == 200
    assert service.http.delete(f"/v1/jobs/{second['job_id']}").status_code == 204
    assert service.http.get(f"/v1/generators/{second['id']}").status_code == 404
    other = submit(service, dataset=ds, name="shared", seed=5).json()
    assert other["status"] == "queued"


def test_images_belong_to_the_generator_that_draws_them(service: Service) -> None:
    keys = []
    for seed in (11, 12):
        queued = submit(service, dataset=dataset(service), seed=seed).json()
        service.finish(queued["job_id"])
        plan = service.http.post("/v1/jobs?dry_run=true", json=drawn_by(queued["id"])).json()
        keys.append({task["key"] for task in plan["tasks"] if task["stage"] == "generate"})
    assert keys[0] and not keys[0] & keys[1]


def test_a_training_goes_on_from_another_generator(service: Service, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")  # a pipeline that does not say what it was taught
    ds = dataset(service)
    first = submit(service, dataset=ds, name="first").json()
    (error,) = submit(service, dataset=ds, base=first["id"]).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/base", "unfinished_generator")
    service.finish(first["job_id"])
    second = submit(service, dataset=ds, name="second", base=first["id"]).json()
    assert second["recipe"]["base"] == first["id"]
    refused = service.http.delete(f"/v1/generators/{first['id']}")
    assert refused.status_code == 409 and second["job_id"] in refused.json()["detail"]
    with session_scope(service.engine) as session:
        bundle = session.get_one(Generator, first["id"]).bundle
        task = session.scalars(select(Task.id).where(Task.job_id == second["job_id"])).one()
        claim = claim_task(session, task, "a worker", 60)
        assert claim is not None and claim.inputs["base"] == [bundle] and set(claim.inputs) == {"photos", "base"}
    service.http.post(f"/v1/jobs/{second['job_id']}/cancel")
    for base, code in (
        ("gen_" + "0" * 26, "unknown_generator"),
        ("some-org/some-model", "value_error"),
        ("/nowhere", "weights_missing"),
        (str(tmp_path), "bad_architecture"),
    ):
        (error,) = submit(service, dataset=ds, base=base).json()["errors"]
        assert (error["pointer"], error["code"]) == ("/base", code)


def test_photos_that_were_learnt_from_are_no_test(service: Service) -> None:
    """Whoever learnt from them, and whatever the id that they are given by."""
    ds, same = dataset(service), dataset(service)
    other = dataset(service, [*CLASSES, "purple thing"])
    base = submit(service, dataset=ds, name="base of another").json()
    service.finish(base["job_id"])
    second = submit(service, dataset=other, name="goes on", base=base["id"]).json()
    service.finish(second["job_id"])

    def warned(measured_on: str, **sections: Any) -> list[str]:
        sections["student"] = {"size": "xs"}  # of the catalogue: no other warning
        body = {"recipe": recipe(evaluation={"dataset": measured_on}, **sections)}
        plan = service.http.post("/v1/jobs?dry_run=true", json=body).json()
        return [text for text in plan["warnings"] if "evaluation.dataset" in text]

    def drawn(generator: dict[str, Any]) -> dict[str, Any]:
        return {"images_per_class": 12, "generator": {"model": generator["id"]}}

    assert warned(ds) == [] and warned(other, data=drawn(base)) == []
    for measured_on in (ds, same):
        (by_generator,) = warned(measured_on, data=drawn(base))
        assert base["id"] in by_generator and measured_on in by_generator
        (by_phase,) = warned(measured_on, training={"agnostic": {"source": ds}})
        assert "domain-agnostic" in by_phase
    (by_second,), (by_its_base,) = warned(other, data=drawn(second)), warned(ds, data=drawn(second))
    assert second["id"] in by_second and base["id"] in by_its_base


def test_all_wrong_fields_at_once(service: Service, tmp_path: Path) -> None:
    answer = submit(service, dataset="", size=50, batch_size=12, seed=-1, minutes=1, colour="red")
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert {"/dataset", "/size", "/batch_size", "/seed", "/colour"} <= pointers
    both = submit(service, dataset="ds_x", minutes=1).json()["errors"]
    assert "only one of steps, minutes" in both[0]["message"]
    away = submit(service, dataset="ds_nowhere", teacher={"model": str(tmp_path / "none")}).json()
    assert {(e["pointer"], e["code"]) for e in away["errors"]} == {
        ("/dataset", "unknown_dataset"),
        ("/teacher/model", "weights_missing"),
    }
    unknown = submit(service, dataset=dataset(service), teacher={"model": "ViT-B-23", "pretrained": "openai"}).json()
    assert [error["pointer"] for error in unknown["errors"]] == ["/teacher/model"]
    vit = {"model": "ViT-B-32", "pretrained": "openai"}
    (error,) = submit(service, dataset=dataset(service), teacher=vit).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/teacher/model", "bad_architecture") and "timm" in error["message"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": {"layers": 12}}}))
    ds = dataset(service)
    (error,) = submit(service, dataset=ds, teacher={"model": str(plain)}).json()["errors"]
    assert (error["pointer"], error["code"]) == ("/teacher/model", "bad_architecture") and "timm" in error["message"]
    (error,) = submit(service, dataset=ds, classes=[CLASSES[0], "moon"]).json()["errors"]
    assert error["pointer"] == "/classes" and "'moon'" in error["message"]


def test_cancel_and_retry_are_the_jobs(service: Service) -> None:
    queued = submit(service, dataset=dataset(service), seed=21).json()
    service.http.post(f"/v1/jobs/{queued['job_id']}/cancel")
    path = f"/v1/generators/{queued['id']}"
    assert service.http.get(path).json()["status"] == "cancelled"
    assert service.http.post(f"/v1/jobs/{queued['job_id']}/retry").json()["status"] == "queued"
    service.finish(queued["job_id"])
    assert service.http.get(path).json()["status"] == "succeeded"


def test_pages_of_generators(service: Service) -> None:
    ds = dataset(service)
    made = [submit(service, dataset=ds, seed=30 + number).json()["id"] for number in range(3)]
    first = service.http.get("/v1/generators?limit=2").json()
    assert [row["id"] for row in first["data"]] == made[:0:-1] and first["next"] == made[1]
    rest = service.http.get(f"/v1/generators?limit=1&after={first['next']}").json()
    assert [row["id"] for row in rest["data"]] == made[:1]


def test_too_many_jobs_wait(start: Any) -> None:
    service = start(max_queued_jobs=1)
    ds = dataset(service)
    assert submit(service, dataset=ds).status_code == 202
    assert submit(service, dataset=ds, seed=1).status_code == 429


def test_what_is_not_valid_and_what_preflight_finds_come_together(service: Service) -> None:
    answer = submit(
        service, dataset="ds_none", batch_size=9, teacher={"model": "/nowhere/teacher"}, licence="x" * 10_000
    )
    assert answer.status_code == 422
    found = {error["pointer"]: error["message"] for error in answer.json()["errors"]}
    assert found.keys() == {"/batch_size", "/licence", "/dataset", "/teacher/model"}
    assert "ds_none" in found["/dataset"] and "/nowhere/teacher" in found["/teacher/model"]
