"""``/v1/jobs``: submit, look up, stop, start again; on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event, select, text, update

from api.jobs.progress import job_eta
from api.jobs.schemas import StageRead
from state.claims import claim_task, fail_task
from state.database import database_now, read_scope, session_scope
from state.garbage import sweep
from state.jobs import delete_job
from state.tables import Result, Task
from tests.api.conftest import Service
from tests.api.seeds import CLASSES, GENERATOR, finish_job, recipe


def test_life_of_a_job(any_service: Service) -> None:
    http = any_service.http
    answer = http.post("/v1/jobs", json={"recipe": recipe(), "name": "mine", "metadata": {"team": "a"}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["name"], job["domain"], job["classes"]) == ("queued", "mine", "colours", 3)
    assert job["recipe"]["training"]["batch_size"] == 128
    stages = [(stage["stage"], stage["tasks"], stage["status"]) for stage in job["stages"]]
    assert stages == [
        ("prompts", 1, "ready"),
        ("generate", 3, "waiting"),
        ("distil", 1, "waiting"),
        ("evaluate", 1, "waiting"),
        ("export", 1, "waiting"),
    ]
    assert http.get(f"/v1/jobs/{job['id']}/report").status_code == 404
    assert http.get(f"/v1/jobs/{job['id']}/artifacts").json() == {"data": [], "next": None}

    done = any_service.finish(job["id"])
    assert (done["status"], done["progress"], done["eta_seconds"]) == ("succeeded", 1.0, None)
    assert done["finished_at"].endswith("Z") and done["encoder_id"].startswith("enc_")
    assert [stage["seconds"] for stage in done["stages"]] == [1.5, 4.5, 1.5, 1.5, 1.5]
    assert http.get(f"/v1/jobs/{job['id']}/report").json()["domain"] == "colours"
    artifacts = http.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    assert "classifier.onnx" in [file["name"] for file in artifacts]
    assert http.get(artifacts[0]["url"]).status_code == 200
    (checkpoint,) = http.get(f"/v1/jobs/{job['id']}/checkpoints").json()["data"]
    assert (checkpoint["stage"], checkpoint["step"], checkpoint["metrics"]) == ("distil", 4, {"loss": 0.4})


def test_second_job_reuses_and_is_named(any_service: Service) -> None:
    first = any_service.submit()
    any_service.finish(first["id"])
    body = {"recipe": recipe(), "name": "again"}
    plan = any_service.http.post("/v1/jobs", params={"dry_run": True}, json=body).json()
    assert {task["reused"] for task in plan["tasks"]} == {True}
    second = any_service.http.post("/v1/jobs", json=body).json()
    assert second["status"] == "succeeded" and second["id"] != first["id"]
    assert [stage["reused"] for stage in second["stages"]] == [1, 3, 1, 1, 1]
    assert any_service.http.get(f"/v1/encoders/{second['encoder_id']}").json()["name"] == "again"


def test_dry_run_tells_the_teachers_size_and_the_student_it_leads_to(service: Service) -> None:
    def dry_run(**changes: Any) -> dict[str, Any]:
        return dict(service.http.post("/v1/jobs?dry_run=1", json={"recipe": recipe(**changes)}).json())

    shipped = dry_run(teacher={"model": "starter"}, student={"fewer_params": 92})
    tower = shipped["teacher"]["params_image_tower"]
    assert shipped["teacher"]["known"] and shipped["warnings"] == []
    assert 0 < shipped["student"]["params"] <= 0.08 * tower
    guessed = dry_run(student={"fewer_params": 92})  # the tests' teacher has no weights
    assert not guessed["teacher"]["known"] and "taken for a ViT-B-32's" in guessed["warnings"][0]
    problem = dry_run(teacher={"model": "starter"}, student={"fewer_params": 99.9})
    (error,) = problem["errors"]
    assert error["pointer"] == "/recipe/student/fewer_params"
    assert f"99.9 % fewer than the {tower:,} of the image tower" in error["message"]


def test_dry_run_queues_nothing(any_service: Service) -> None:
    answer = any_service.http.post("/v1/jobs?dry_run=true", json={"recipe": recipe()})
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["recipe"]["data"]["prompts"]["template"] == "a photo of a {name}, {context}"
    assert plan["student"]["architecture"] == "resnet18" and plan["student"]["image_size"] == 32
    assert "resnet18" in plan["warnings"][0]
    preset = any_service.http.post("/v1/jobs?dry_run=1", json={"recipe": recipe(student={"size": "xs"})}).json()
    assert preset["student"]["preset"] == "xs" and preset["student"]["architecture"] == "test_resnet"
    assert preset["student"]["params"] == 553_424 and preset["warnings"] == []
    assert plan["estimate"]["images"] == 36 and plan["estimate"]["steps"] > 0 and plan["estimate"]["bytes"] > 0
    assert [task["stage"] for task in plan["tasks"]].count("generate") == 3
    assert any_service.http.get("/v1/jobs").json() == {"data": [], "next": None}


def test_estimates_come_from_earlier_jobs(any_service: Service, tmp_path: Path) -> None:
    def told(**data: Any) -> dict[str, Any]:
        body = {"recipe": recipe(student={"size": "xs"}, data=data, training={"steps": 1})}
        estimate: dict[str, Any] = any_service.http.post("/v1/jobs?dry_run=true", json=body).json()["estimate"]
        return estimate

    assert told()["basis"] == "typical rates of the full tier"
    job = any_service.http.post("/v1/jobs", json={"recipe": recipe(student={"size": "xs"})}).json()
    finish_job(any_service.engine, any_service.blobs, job["id"], tmp_path)
    measured = told(images_per_class=2400)
    assert measured["basis"] == "measured on this installation"
    assert 7200 / 2.0 / 60 < measured["minutes"] < 7200 / 2.0 / 60 + 5
    other = told(images_per_class=2400, generator={"model": GENERATOR, "size": 256})
    assert other["basis"] == "training measured on this installation, else typical rates of the full tier"


def test_estimates_count_the_domain_agnostic_phase(any_service: Service, tmp_path: Path) -> None:
    """1,200 photos of two views at the 5 views a second of an earlier job: 8 minutes, until they are embedded. And
    one step of 128 images at 2 a second: a minute."""
    photos = tmp_path / "photos.tar"
    photos.write_bytes(b"")

    def body(**agnostic: Any) -> dict[str, Any]:
        phase = {"agnostic": {"source": str(photos), "steps": 1, **agnostic}} if agnostic else {}
        return {"recipe": recipe(student={"size": "xs"}, training={"steps": 1, "views": 2, **phase})}

    def told(**agnostic: Any) -> dict[str, Any]:
        return any_service.http.post("/v1/jobs?dry_run=true", json=body(**agnostic)).json()["estimate"]  # type: ignore[no-any-return]

    earlier = any_service.http.post("/v1/jobs", json=body(max_images=16)).json()
    finish_job(any_service.engine, any_service.blobs, earlier["id"], tmp_path)
    without, with_photos = told(), told(max_images=1200)
    assert with_photos["basis"] == "measured on this installation"
    assert 8.9 < with_photos["minutes"] - without["minutes"] < 9.3
    assert with_photos["bytes"] > without["bytes"] and with_photos["images"] == without["images"]
    assert told(max_images=16)["minutes"] - without["minutes"] < 0.2, "their features are there already"


def test_list_pages_and_filters(any_service: Service) -> None:
    http = any_service.http
    made = []
    for number in range(5):
        metadata = {"team": "a" if number % 2 else "b", "odd key.x": str(number)}
        made.append(http.post("/v1/jobs", json={"recipe": recipe(), "metadata": metadata}).json()["id"])
    http.post(f"/v1/jobs/{made[0]}/cancel")
    seen: list[str] = []
    after = None
    while True:
        page = http.get("/v1/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
        assert len(page["data"]) <= 2
        seen += [job["id"] for job in page["data"]]
        after = page["next"]
        if after is None:
            break
    assert seen == sorted(made, reverse=True)

    def ids(**params: str) -> set[str]:
        return {job["id"] for job in http.get("/v1/jobs", params=params).json()["data"]}

    assert ids(**{"metadata[team]": "a"}) == {made[1], made[3]}
    assert ids(**{"metadata[team]": "a", "metadata[odd key.x]": "3"}) == {made[3]}
    assert ids(status="cancelled") == {made[0]}
    both = http.get("/v1/jobs", params=[("status", "cancelled"), ("status", "queued")]).json()["data"]
    assert len(both) == 5


def test_a_text_that_no_database_holds(any_service: Service) -> None:
    assert any_service.http.get("/v1/jobs/%00").status_code in (404, 422)
    assert any_service.http.get("/v1/jobs", params={"metadata[team]": "a\0b"}).status_code in (200, 422)


def test_idempotency(any_service: Service) -> None:
    http = any_service.http
    headers = {"Idempotency-Key": "one"}
    first = http.post("/v1/jobs", json={"recipe": recipe()}, headers=headers)
    again = http.post("/v1/jobs", json={"recipe": recipe(), "metadata": {}}, headers=headers)
    assert first.json()["id"] == again.json()["id"] and again.status_code == 202
    assert "idempotent-replay" not in first.headers and again.headers["idempotent-replay"] == "true"
    other = http.post("/v1/jobs", json={"recipe": recipe(), "metadata": {"a": "b"}}, headers=headers)
    assert other.status_code == 422 and other.json()["code"] == "idempotency_mismatch"
    assert len(http.get("/v1/jobs").json()["data"]) == 1


def test_idempotency_race(any_service: Service) -> None:
    url = any_service.http.base_url

    def post(_number: int) -> httpx.Response:
        return httpx.post(f"{url}/v1/jobs", json={"recipe": recipe()}, headers={"Idempotency-Key": "race"}, timeout=30)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replay" not in answer.headers for answer in answers) == 1
    assert len(any_service.http.get("/v1/jobs").json()["data"]) == 1


def test_cancel_and_retry(any_service: Service) -> None:
    http = any_service.http
    job = any_service.submit()
    assert http.post(f"/v1/jobs/{job['id']}/retry").status_code == 409
    cancelled = http.post(f"/v1/jobs/{job['id']}/cancel")
    assert cancelled.status_code == 202 and cancelled.json()["status"] == "cancelled"
    assert http.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    retried = http.post(f"/v1/jobs/{job['id']}/retry")
    assert retried.status_code == 202
    assert (retried.json()["status"], retried.json()["attempt"]) == ("queued", 2)
    any_service.finish(job["id"])
    late = http.post(f"/v1/jobs/{job['id']}/cancel")
    assert late.status_code == 409 and late.json()["code"] == "conflict"


def test_deleted_jobs_give_their_disk_back(any_service: Service) -> None:
    http = any_service.http
    first = any_service.finish(any_service.submit()["id"])
    second = any_service.finish(any_service.submit(training={"steps": 1})["id"])
    assert second["stages"][1]["reused"] == 3, "they share the images"
    mine, shared = (_blobs_of(any_service, job["id"]) for job in (first, second))
    assert mine - shared and mine & shared

    assert http.delete(f"/v1/jobs/{first['id']}").status_code == 204
    for path in (f"jobs/{first['id']}", f"jobs/{first['id']}/events", f"encoders/{first['encoder_id']}"):
        assert http.get(f"/v1/{path}").status_code == 404
    unknown = http.delete(f"/v1/jobs/{first['id']}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert sweep(any_service.engine, any_service.blobs, min_age_seconds=-60) > 0
    stored = set(any_service.blobs.stored())
    assert shared <= stored and not (mine - shared) & stored
    for path in (f"jobs/{second['id']}/samples/0", f"encoders/{second['encoder_id']}/archive"):
        assert http.get(f"/v1/{path}").status_code == 200
    assert [stage["reused"] for stage in any_service.submit()["stages"]] == [1, 3, 0, 0, 0]


def test_an_output_is_reused_until_the_last_of_its_jobs_is_deleted(any_service: Service) -> None:
    http = any_service.http
    jobs = [any_service.finish(any_service.submit()["id"]), any_service.submit(), any_service.submit()]
    assert {job["status"] for job in jobs} == {"succeeded"}
    for job in jobs[:2]:
        assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    sweep(any_service.engine, any_service.blobs, min_age_seconds=-60)
    assert http.get(f"/v1/encoders/{jobs[2]['encoder_id']}/archive").status_code == 200
    assert http.delete(f"/v1/jobs/{jobs[2]['id']}").status_code == 204
    sweep(any_service.engine, any_service.blobs, min_age_seconds=-60)
    assert not list(any_service.blobs.stored())
    assert any_service.submit()["status"] == "queued"


def test_a_job_that_is_not_over_is_not_deleted(any_service: Service) -> None:
    path = f"/v1/jobs/{any_service.submit()['id']}"
    refused = any_service.http.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "queued" in refused.json()["detail"] and "cancel it" in refused.json()["detail"]
    assert any_service.http.post(f"{path}/cancel").json()["status"] == "cancelled"
    assert any_service.http.delete(path).status_code == 204


def _blobs_of(service: Service, job_id: str) -> set[str]:
    """The outputs of a job, and all their files."""
    with read_scope(service.engine) as session:
        made = session.scalars(select(Result).join(Task, Task.key == Result.key).where(Task.job_id == job_id))
        return {sha for row in made for sha in (row.bundle, *(entry["sha256"] for entry in row.files.values()))}


def test_failed_job_says_why(any_service: Service) -> None:
    job = any_service.submit()
    error = {"code": "out_of_memory", "message": "no memory", "hint": "halve it", "field": "training.batch_size"}
    with session_scope(any_service.engine) as session:
        task_id = session.scalar(select(Task.id).where(Task.job_id == job["id"], Task.status == "ready"))
        assert task_id is not None
        claim = claim_task(session, task_id, "test", 60)
        assert claim is not None
        fail_task(session, task_id, claim.token, error, retryable=False)
    failed = any_service.http.get(f"/v1/jobs/{job['id']}").json()
    assert failed["status"] == "failed"
    assert failed["error"] == {**error, "stage": "prompts"}
    assert failed["stages"][0]["status"] == "failed"


def test_stages_are_counted(any_service: Service) -> None:
    """Shards in every state: done, reused, running, waiting after a failure, waiting."""
    job = any_service.submit(data={"images_per_class": 24, "shard_size": 16})
    told = {"total": 16, "unit": "images", "rate": 3.0}
    done, half = {**told, "done": 16, "metrics": {"kept": 0.9}}, {**told, "done": 8, "metrics": {"kept": 0.5}}
    states: list[dict[str, Any]] = [
        {"status": "done", "progress": done, "seconds": 2.0},
        {"status": "done", "reused": True, "seconds": 0.0},
        {"status": "running", "progress": {**half, "done": 4}, "seconds": 1.5},
        {"status": "ready", "progress": half},
        {"status": "waiting"},
    ]
    with session_scope(any_service.engine) as session:
        for shard, values in enumerate(states):
            session.execute(update(Task).where(Task.stage == "generate", Task.shard == shard).values(values))
    read = any_service.http.get(f"/v1/jobs/{job['id']}").json()
    assert read["stages"][1] == {
        "stage": "generate",
        "status": "running",
        "tasks": 5,
        "done": 2,
        "reused": 1,
        "fraction": 0.55,
        "progress": {"done": 28, "total": 48, "unit": "images", "rate": 3.0, "metrics": {"kept": 0.5}},
        "seconds": 3.5,
        "eta_seconds": 4.5,
    }
    (listed,) = any_service.http.get("/v1/jobs").json()["data"]
    assert read["progress"] == listed["progress"] == round(50 * 0.55 / 95, 4)


def test_time_left_after_a_resume_and_with_reused_shards(any_service: Service) -> None:
    """A training that goes on at step 8,000 of 10,000, one a second, a minute after the worker's restart. One of two
    shards was taken over; the other took 500 seconds for its half of the stage's weight of 50."""
    job = any_service.submit(data={"images_per_class": 8, "shard_size": 16})
    at_work = {"done": 8060, "total": 10_000, "unit": "steps", "rate": 1.0, "metrics": {}}
    with session_scope(any_service.engine) as session:
        of_job = update(Task).where(Task.job_id == job["id"])
        session.execute(of_job.where(Task.stage == "prompts").values(status="done", seconds=0.0))
        session.execute(of_job.where(Task.stage == "generate").values(status="done", seconds=500.0))
        reused = of_job.where(Task.stage == "generate", Task.shard == 0)
        session.execute(reused.values(reused=True, seconds=0.0))
        started = database_now(session) - timedelta(seconds=60)
        running = {"status": "running", "started_at": started, "progress": at_work}
        session.execute(of_job.where(Task.stage == "distil").values(running))
    read = any_service.http.get(f"/v1/jobs/{job['id']}").json()
    stages = {stage["stage"]: stage for stage in read["stages"]}
    assert (stages["generate"]["tasks"], stages["generate"]["reused"]) == (2, 1)
    assert stages["distil"]["eta_seconds"] == 1940.0
    per_weight = (500 + stages["distil"]["seconds"]) / (50 / 2 + 30 * 0.806)
    assert read["eta_seconds"] == pytest.approx(1940 + (5 + 8) * per_weight, abs=1)


def test_time_left_where_all_that_is_done_was_reused() -> None:
    """Two thirds, which are no round number: the third shard has worked for a minute without making anything yet."""
    counts: dict[str, Any] = {"tasks": 3, "done": 2, "reused": 2, "fraction": 0.6667, "eta_seconds": None}
    stages = [
        StageRead(stage="generate", status="running", progress=None, seconds=60, **counts),
        StageRead(stage="embed", status="running", progress=None, seconds=50, **one_task(0.5, 50)),
        StageRead(stage="distil", status="waiting", progress=None, seconds=None, **one_task(0, None)),
    ]
    assert job_eta(stages) == 50 + 50 / (10 * 0.5) * 30


def one_task(fraction: float, eta: float | None) -> dict[str, Any]:
    return {"tasks": 1, "done": 0, "reused": 0, "fraction": fraction, "eta_seconds": eta}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_job_that_goes_away_meanwhile(any_service: Service, database_url: str) -> None:
    """SQLite's writers wait for one another from their start; PostgreSQL's find the job, wait for its lock, and then
    there is none."""
    job = any_service.submit()
    assert any_service.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    with ThreadPoolExecutor(1) as pool:
        with session_scope(any_service.engine) as session:
            delete_job(session, job["id"])
            session.flush()
            answer = pool.submit(any_service.http.post, f"/v1/jobs/{job['id']}/retry")
            while not session.scalar(waiting):
                assert not answer.done()
                session.execute(text("SELECT pg_stat_clear_snapshot()"))
        assert (answer.result().status_code, answer.result().json()["code"]) == (404, "not_found")


def test_few_tasks_are_loaded_however_many_a_job_has(any_service: Service) -> None:
    job = any_service.submit(data={"images_per_class": 1600, "shard_size": 16})
    done = {"done": 16, "total": 16, "unit": "images", "rate": 3.0, "metrics": {}}
    with session_scope(any_service.engine) as session:
        shards = update(Task).where(Task.stage == "generate", Task.shard < 200)
        session.execute(shards.values(status="done", progress=done, seconds=2.0))
    loaded: list[Task] = []

    def count(task: Task, _context: object) -> None:
        loaded.append(task)

    event.listen(Task, "load", count)
    try:
        read = any_service.http.get(f"/v1/jobs/{job['id']}").json()
        (listed,) = any_service.http.get("/v1/jobs").json()["data"]
    finally:
        event.remove(Task, "load", count)
    assert len(loaded) <= 10
    stage = read["stages"][1]
    assert (stage["tasks"], stage["done"], stage["progress"]["done"], stage["seconds"]) == (300, 200, 3200, 400.0)
    assert read["progress"] == listed["progress"] > 0.3


def test_samples(service: Service) -> None:
    job = service.submit(data={"images_per_class": 13, "shard_size": 16})
    assert service.http.get(f"/v1/jobs/{job['id']}/samples").json() == {"data": [], "next": None}
    service.finish(job["id"])
    page = service.http.get(f"/v1/jobs/{job['id']}/samples", params={"limit": 4}).json()
    rest = service.http.get(f"/v1/jobs/{job['id']}/samples", params={"after": page["next"]}).json()
    samples = page["data"] + rest["data"]
    assert len(samples) == 9 and rest["next"] is None and len({s["n"] for s in samples}) == 9
    assert [sample["class"] for sample in samples[:3]] == CLASSES
    assert samples[0]["prompt"] == "a photo of a red thing" and samples[0]["seed"] == 7
    image = service.http.get(samples[-1]["url"])
    assert image.headers["content-type"] == "image/jpeg" and image.content.startswith(b"\xff\xd8")
    assert service.http.get(f"/v1/jobs/{job['id']}/samples/99").status_code == 404


def test_too_many_jobs(start: Callable[..., Service]) -> None:
    service = start(max_queued_jobs=2)
    service.submit()
    first = service.http.get("/v1/jobs").json()["data"][0]["id"]
    service.submit()
    refused = service.http.post("/v1/jobs", json={"recipe": recipe()})
    assert refused.status_code == 429 and refused.json()["code"] == "too_many_jobs"
    assert int(refused.headers["retry-after"]) > 0
    service.http.post(f"/v1/jobs/{first}/cancel")
    service.submit()
