from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from distillation.plan import StageTask
from state.blobs import BlobStore
from state.claims import Claim, claim_task, expire_leases
from state.database import database_now, make_engine, read_scope, session_scope
from state.jobs import create_job, request_cancel, retry_job
from state.tables import Checkpoint, Dataset, Encoder, EncoderFile, Generator, Job, Task
from tests.state.examples import GENERATOR_RECIPE, RECIPE, new_job, stage_tasks
from tests.workers.conftest import House, in_background, wait_until
from workers import supervisor
from workers.trim import trim


@pytest.fixture
def sqlite_house(house_of: Callable[..., House], sqlite_url: str) -> House:
    """For what does not depend on the database."""
    return house_of(make_engine(sqlite_url))


def test_a_whole_job(house: House) -> None:
    job_id = house.submit()
    house.work_all(job_id)
    job = house.job(job_id)
    assert (job.status, job.error) == ("succeeded", None)
    assert [task.status for task in house.tasks(job_id)] == ["done"] * 6
    with read_scope(house.engine) as session:
        encoder = session.scalars(select(Encoder)).one()
        files = {file.name: file for file in session.scalars(select(EncoderFile))}
    assert (encoder.id, encoder.report) == (job.encoder_id, {"domain": "fruit", "gap": None})
    assert set(files) == {"open_clip_config.json", "image_encoder.onnx", "README.md"}
    onnx = files["image_encoder.onnx"]
    with house.blobs.open(onnx.sha256) as file:
        assert file.read() == b"weights"
    assert (onnx.size, onnx.content_type) == (7, "application/octet-stream")
    statuses = [event.data["status"] for event in house.events(job_id, "status")]
    assert statuses == ["queued", "preparing", "generating", "training", "evaluating", "exporting", "succeeded"]
    assert [event.data["code"] for event in house.events(job_id, "warning")] == ["batch_halved"] * 6
    assert "this line is not JSON" in [event.message for event in house.events(job_id, "log")]
    assert not list(house.settings.scratch.iterdir())


def test_inputs_are_the_folders_of_the_needed_stages(sqlite_house: House) -> None:
    house = sqlite_house
    job_id = house.submit(shards=3)
    house.work_all(job_id)
    bundle = house.tasks(job_id, "export")[0].bundle
    assert bundle
    with house.blobs.open(house.blobs.bundle(bundle)["inputs.json"]["sha256"]) as file:
        inputs = file.read()
    generate = b'["generate.txt", "inputs.json", "manifest.json"]'
    assert inputs.count(generate) == 3
    assert inputs.startswith(b'{"generate"') and b'"distil": [' in inputs and b'"evaluate": [' in inputs


def test_another_student_reuses_the_images(house: House) -> None:
    first = house.submit()
    house.work_all(first)
    second = house.submit(student="other")
    done = [task.stage for task in house.tasks(second) if task.reused]
    assert done == ["prompts", "generate", "generate"]
    house.work_all(second)
    assert house.job(second).status == "succeeded"
    third = house.submit()
    assert house.job(third).status == "succeeded"
    assert house.job(third).encoder_id not in (None, house.job(first).encoder_id)


def test_cancel_stops_the_child_and_keeps_what_is_done(house: House) -> None:
    job_id = house.submit("distil=waiting")
    house.work_all(job_id, until="generate")
    [distil] = house.tasks(job_id, "distil")
    worker = in_background(lambda: house.work(distil))
    wait_until(lambda: house.events(job_id, "checkpoint"))
    with session_scope(house.engine) as session:
        assert request_cancel(session, job_id).status == "cancelling"
    worker.join()
    assert house.job(job_id).status == "cancelled"
    assert [task.status for task in house.tasks(job_id)] == ["done"] * 3 + ["cancelled"] * 3
    with session_scope(house.engine) as session:
        retry_job(session, job_id)
    house.work_all(job_id)
    assert house.job(job_id).status == "succeeded"
    summary = house.tasks(job_id, "distil")[0].summary
    assert summary and summary["resumed_from"] > 0


def test_a_deaf_child_is_killed_after_the_grace(house_of: Callable[..., House], sqlite_url: str) -> None:
    house = house_of(make_engine(sqlite_url), grace_seconds=0.3)
    job_id = house.submit("prompts=deaf")
    [prompts] = house.tasks(job_id, "prompts")
    worker = in_background(lambda: house.work(prompts))
    wait_until(lambda: house.events(job_id, "progress"))
    with session_scope(house.engine) as session:
        request_cancel(session, job_id)
    worker.join()
    assert house.job(job_id).status == "cancelled"


def test_shutdown_gives_the_task_back_and_a_fresh_folder_resumes(house: House) -> None:
    job_id = house.submit("distil=waiting")
    house.work_all(job_id, until="generate")
    [distil] = house.tasks(job_id, "distil")
    worker = in_background(lambda: house.work(distil))
    wait_until(lambda: house.events(job_id, "checkpoint"))
    house.shutdown.set()
    worker.join()
    [distil] = house.tasks(job_id, "distil")
    assert (distil.status, distil.attempt) == ("ready", 0)
    assert house.work(distil) == "not claimed"

    shutil.rmtree(house.settings.scratch)  # as on another machine
    house.shutdown.clear()
    assert house.work(distil) == "done"
    summary = house.tasks(job_id, "distil")[0].summary
    assert summary and summary["resumed_from"] > 0


def test_checkpoints_let_their_files_go_once_the_output_is_there(sqlite_house: House) -> None:
    house = sqlite_house
    job_id = house.submit("prompts=slow")
    house.work(house.tasks(job_id, "prompts")[0])
    with read_scope(house.engine) as session:
        rows = list(session.scalars(select(Checkpoint).order_by(Checkpoint.id)))
    assert [(row.step, row.bundle) for row in rows] == [(step, None) for step in (5, 10, 15, 20, 25, 30)]


def test_a_known_error_fails_the_job(house: House) -> None:
    job_id = house.submit("generate=error")
    house.work_all(job_id)
    job = house.job(job_id)
    assert job.status == "failed" and job.error
    told = {name: job.error[name] for name in ("code", "message", "hint", "field", "stage")}
    assert told == {
        "code": "weights_missing",
        "message": "no weights",
        "hint": "get them",
        "field": "teacher.model",
        "stage": "generate",
    }
    assert house.tasks(job_id, "generate")[0].attempt == 1
    assert {task.status for task in house.tasks(job_id)} == {"done", "failed", "cancelled"}


@pytest.mark.parametrize(
    ("way", "code", "word"),
    [
        ("killed", "out_of_memory", "memory ran out"),
        ("mute", "internal", "status 3"),
        ("liar", "internal", "not whole"),
    ],
)
def test_other_ends_are_tried_again_and_then_clear(sqlite_house: House, way: str, code: str, word: str) -> None:
    house = sqlite_house
    job_id = house.submit(f"prompts={way}")
    house.work_all(job_id)
    job = house.job(job_id)
    assert job.status == "failed" and job.error
    assert job.error["code"] == code and word in job.error["message"]
    assert house.tasks(job_id, "prompts")[0].attempt == 3
    if way == "mute":
        assert job.error["stderr"][-1] == "stderr line 59" and len(job.error["stderr"]) == 40


def test_an_error_that_names_a_file_as_no_database_can(house: House) -> None:
    job_id = house.submit("prompts=odd")
    assert house.work(house.tasks(job_id)[0]) == "failed"
    job = house.job(job_id)
    assert job.error and (job.status, job.error["message"]) == ("failed", "caf?.tar is broken")


def test_a_database_that_is_away_costs_no_message(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house = sqlite_house
    answers = iter([OperationalError("SELECT", {}, OSError("connection refused"))])

    def claim(*args: Any) -> Claim | None:
        for error in answers:
            raise error
        return claim_task(*args)

    monkeypatch.setattr(supervisor, "claim_task", claim)
    assert house.work(house.tasks(house.submit())[0]) == "done"


def test_a_passing_trouble_is_retried(sqlite_house: House) -> None:
    job_id = sqlite_house.submit("generate=flaky")
    sqlite_house.work_all(job_id)
    assert sqlite_house.job(job_id).status == "succeeded"
    assert [task.attempt for task in sqlite_house.tasks(job_id, "generate")] == [2, 2]


def test_a_worker_that_lost_its_lease_writes_nothing(house: House) -> None:
    job_id = house.submit("prompts=slow")
    [prompts] = house.tasks(job_id, "prompts")
    outcomes: list[str] = []
    worker = in_background(lambda: outcomes.append(house.work(prompts)))
    wait_until(lambda: house.events(job_id, "progress"))
    with session_scope(house.engine) as session:  # as if its heartbeats had not come through
        task = session.get_one(Task, prompts.id)
        task.lease_expires_at = house.job(job_id).created_at
        session.flush()
        assert expire_leases(session) == 1
        claim = claim_task(session, prompts.id, "another", 60)
    worker.join()
    assert claim and outcomes == ["lost"]
    [prompts] = house.tasks(job_id, "prompts")
    assert (prompts.status, prompts.token, prompts.lease_owner) == ("running", claim.token, "another")


def test_a_manifest_left_by_a_lost_attempt_is_taken_over(sqlite_house: House) -> None:
    house = sqlite_house
    job_id = house.submit()
    [prompts] = house.tasks(job_id, "prompts")
    house.work(prompts)
    kept = house.tasks(job_id, "prompts")[0]
    assert kept.bundle
    # The work is done but was never recorded: only the folder knows.
    other = house.submit(images="others")
    [fresh] = house.tasks(other, "prompts")
    out = house.settings.scratch / fresh.key / "out"
    house.blobs.fetch_bundle(kept.bundle, out)
    assert house.work(fresh) == "failed"  # another key: it is not believed
    assert house.work(fresh) == "done"


def test_disk_full(sqlite_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house = sqlite_house
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(house.blobs, "put_bundle", lambda *_: (_ for _ in ()).throw(full))
    job_id = house.submit()
    house.work_all(job_id)
    error = house.job(job_id).error
    assert error and error["code"] == "disk_full"


def test_an_output_that_is_gone_is_made_again(house: House) -> None:
    first = house.submit()
    house.work_all(first, until="generate")
    lost = house.tasks(first, "generate")[1].bundle
    assert lost
    house.blobs.delete(lost)
    second = house.submit(student="other")  # takes the lost output over
    house.work_all(second)
    assert house.job(second).status == "succeeded"
    assert [task.reused for task in house.tasks(second, "generate")] == [True, False]
    codes = [event.data.get("code") for event in house.events(second, "warning")]
    assert codes.count("output_gone") == 1
    house.work_all(first)
    assert house.job(first).status == "succeeded"


def test_all_shards_wait_for_prompts_that_are_made_again(house: House) -> None:
    job_id = house.submit(shards=3)
    house.work_all(job_id, until="prompts")
    lost = house.tasks(job_id, "prompts")[0].bundle
    assert lost
    house.blobs.delete(lost)
    house.work(house.tasks(job_id, "generate")[0])
    assert {task.status for task in house.tasks(job_id, "generate")} == {"waiting"}
    house.work_all(job_id)
    assert house.job(job_id).status == "succeeded"


def test_workers_without_a_common_blob_store_are_told_so(sqlite_house: House, tmp_path: Path) -> None:
    house = sqlite_house
    settings = house.settings.model_copy(update={"home": tmp_path / "elsewhere"})
    stranger = House(house.engine, settings, BlobStore(str(tmp_path / "elsewhere" / "blobs")))
    job_id = house.submit(shards=1)
    for _ in range(10):  # one makes the prompts, the other never finds them
        house.work(house.tasks(job_id, "prompts")[0])
        stranger.work(house.tasks(job_id, "generate")[0])
    error = house.job(job_id).error
    assert error and (error["code"], error["stage"], error["shard"]) == ("output_gone", "prompts", 0)
    assert "3 attempts" in error["message"] and "STILLROOM_BLOBS_URL" in error["hint"]
    assert [task.status for task in house.tasks(job_id)] == ["failed"] + ["cancelled"] * 4
    with session_scope(house.engine) as session:  # the store is put right
        retry_job(session, job_id)
    house.work_all(job_id)
    assert house.job(job_id).status == "succeeded"


def test_a_deleted_dataset_is_said_clearly(sqlite_house: House) -> None:
    house = sqlite_house
    job_id = house.submit(dataset="ds_gone")
    house.work_all(job_id)
    error = house.job(job_id).error
    assert error and (error["code"], error["field"]) == ("bad_dataset", "evaluation.dataset")


def test_a_dataset_is_an_input_of_the_evaluation(sqlite_house: House, tmp_path: Path) -> None:
    house = sqlite_house
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dataset.json").write_text("{}")
    with session_scope(house.engine) as session:
        bundle = house.blobs.put_bundle(tmp_path / "photos")
        row = Dataset(id="ds_1", name="photos", images=1, classes=[], rejected=[], bundle=bundle, size=2)
        row.created_at = database_now(session)
        session.add(row)
    job_id = house.submit(dataset="ds_1")
    house.work_all(job_id)
    evaluated = house.tasks(job_id, "evaluate")[0].bundle
    assert evaluated
    with house.blobs.open(house.blobs.bundle(evaluated)["inputs.json"]["sha256"]) as file:
        assert b'"dataset": [["dataset.json"]]' in file.read()


def test_a_generator_that_is_gone_is_trained_again(house: House, tmp_path: Path) -> None:
    """And not taken over from the first training, whose output is the one that is gone."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dataset.json").write_text("{}")
    with session_scope(house.engine) as session:
        bundle = house.blobs.put_bundle(tmp_path / "photos")
        now = database_now(session)
        row = Dataset(id="ds_fruit", name="photos", images=1, classes=[], rejected=[], bundle=bundle, size=2)
        row.created_at = now
        session.add(row)

    def train() -> Generator:
        with session_scope(house.engine) as session:
            job = create_job(session, GENERATOR_RECIPE, tasks=[StageTask("generator", 0, "9" * 64, ())])
        house.work_all(job.id, until="generator")
        with read_scope(house.engine) as session:
            return session.scalars(select(Generator).where(Generator.job_id == job.id)).one()

    def use(generator: Generator, images: str) -> Job:
        chosen = RECIPE.data.generator.model_copy(update={"model": generator.id})
        data = RECIPE.data.model_copy(update={"generator": chosen})
        recipe = RECIPE.model_copy(update={"data": data})
        with session_scope(house.engine) as session:
            job_id = new_job(session, stage_tasks(images), recipe=recipe).id
        house.work_all(job_id)
        return house.job(job_id)

    first = train()
    assert first.bundle and use(first, "some").status == "succeeded"
    house.blobs.delete(first.bundle)
    shutil.rmtree(house.settings.cache)
    error = use(first, "more").error
    assert error and (error["code"], error["field"]) == ("weights_missing", "data.generator.model")
    second = train()
    assert not house.tasks(second.job_id)[0].reused
    assert use(second, "again").status == "succeeded"


def test_trim_keeps_what_unfinished_jobs_need(sqlite_house: House) -> None:
    house = sqlite_house
    job_id = house.submit()
    house.work_all(job_id, until="generate")
    needed = [house.settings.cache / str(house.tasks(job_id, "prompts")[0].bundle)]
    needed.append(house.settings.scratch / house.tasks(job_id, "distil")[0].key)
    old = [root / "old" for root in (house.settings.scratch, house.settings.cache, house.settings.uploads)]
    young = house.settings.scratch / "young"
    for folder in (*needed, *old, young):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in (*needed, *old):
        os.utime(folder, (1, 1))
    assert trim(house.engine, house.settings) == 3
    assert all(folder.is_dir() for folder in (*needed, young))
