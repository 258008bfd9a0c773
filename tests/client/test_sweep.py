"""`stillroom sweep` against the real API, with two workers that race for every task."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from distillation.catalogue import resolve_student
from distillation.recipe import Recipe
from distillation.teachers import TeacherShape
from state.claims import Claim, claim_task, fail_task, finish_task
from state.database import read_scope, session_scope
from state.settings import Settings
from state.tables import Task
from tests.api.conftest import Service, serve
from tests.api.seeds import model_folder, recipe
from tests.client.conftest import Run
from tests.client.test_cli import plain

TOWER = 10_000_000
SHARED = {"prompts": 1, "generate": 3}
"""Tasks of the stages that all jobs of a sweep have in common."""


@dataclass
class Workers:
    """What the workers of one test did.

    Args:
        made: stage, shard and key of every task that was worked on.
        broken: an architecture whose training fails.
    """

    service: Service
    made: list[tuple[str, int, str]] = field(default_factory=list)
    broken: str = ""

    def work(self, over: threading.Event) -> None:
        while not over.wait(0.01):
            with read_scope(self.service.engine) as session:
                ready = list(session.scalars(select(Task.id).where(Task.status == "ready").order_by(Task.id)))
            for task_id in ready:
                with session_scope(self.service.engine) as session:
                    claim = claim_task(session, task_id, threading.current_thread().name, 60)
                if claim is not None:
                    self.made.append((claim.stage, claim.shard, claim.key))
                    self.finish(claim)

    def finish(self, claim: Claim) -> None:
        """Take a moment, so that the other worker comes upon tasks that are being made; then hand in the output."""
        time.sleep(0.02)
        report = report_of(claim)
        folder = self.service.scratch / f"{claim.task_id}-{claim.token}"
        (folder / "encoder").mkdir(parents=True)
        (folder / "encoder" / "labels.json").write_text(json.dumps([claim.key]))
        bundle = self.service.blobs.put_bundle(folder)
        with session_scope(self.service.engine) as session:
            if claim.stage == "distil" and report["student"]["architecture"] == self.broken:
                error = {"code": "out_of_memory", "message": "no memory", "hint": "halve it", "field": None}
                fail_task(session, claim.task_id, claim.token, error, retryable=False)
                return
            made = {"bundle": bundle, "files": self.service.blobs.bundle(bundle), "summary": {"images": 6}}
            scores = report if claim.stage in ("evaluate", "export") else None
            finish_task(session, claim.task_id, claim.token, **made, seconds=1.5, report=scores)


def report_of(claim: Claim) -> dict[str, Any]:
    """The report of the student that the recipe means for a teacher of ``TOWER`` parameters."""
    wanted = Recipe.model_validate(claim.recipe)
    student = resolve_student(wanted.student, TeacherShape(64, 256, TOWER))
    sizes = {"architecture": student.architecture, "image_size": student.image_size, "params": student.params}
    scores = {"images": 6, "teacher": {"acc1": 0.75}, "student": {"acc1": student.params / TOWER}}
    return {
        "domain": "colours",
        "classes": 3,
        "teacher": {"model": "a teacher", "params_image_tower": TOWER, "params_total": 2 * TOWER},
        "student": {**sizes, "saving_vs_image_tower": 1 - student.params / TOWER, "init": "scratch"},
        "synthetic": scores,
        "real": {"images": 5, "teacher": {"acc1": 0.5}, "student": {"acc1": 0.25}},
    }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serve(Settings(home=tmp_path / "home"), tmp_path / "scratch") as running:
        yield running


@pytest.fixture
def workers(service: Service) -> Iterator[Workers]:
    done = Workers(service)
    over = threading.Event()
    threads = [threading.Thread(target=done.work, args=(over,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield done
    over.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """For a teacher whose weights' file says that its image tower has ``TOWER`` parameters; nothing loads it."""
    described = {"model_cfg": {"embed_dim": 256, "vision_cfg": {"image_size": 64}}}
    folder = Path(model_folder("sized-teacher", "open_clip_config.json", described))
    tensors = {"visual.weight": {"dtype": "F32", "shape": [1000, TOWER // 1000], "data_offsets": [0, 4 * TOWER]}}
    header = json.dumps(tensors).encode()
    (folder / "open_clip_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    content = recipe(teacher={"model": f"local-dir:{folder}"}, student={"size": "s"})
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    return path


def fewer(*percents: float) -> list[str]:
    return [item for percent in percents for item in ("--fewer", str(percent))]


def test_images_and_features_are_made_once(run: Run, service: Service, workers: Workers, recipe_file: Path) -> None:
    done = run(str(service.http.base_url), "sweep", recipe_file, "--wait", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["fewer_params"] for row in rows] == [[70], [80], [90], [92], [95], [97]]
    for row in rows:
        assert row["saving_vs_image_tower"] == 1 - row["params"] / TOWER >= row["fewer_params"][0] / 100
        assert row["synthetic"] == {"teacher": 0.75, "student": row["params"] / TOWER}
        assert row["real"] == {"teacher": 0.5, "student": 0.25}
        assert row["status"] == "succeeded" and row["encoder_id"] and row["seconds"]["distil"] == 1.5
    assert len({row["architecture"] for row in rows}) == 6

    assert set(Counter(workers.made).values()) == {1}, "no task is worked on twice"
    per_stage = Counter(stage for stage, _, _ in workers.made)
    assert per_stage == {**SHARED, "distil": 6, "evaluate": 6, "export": 6}
    assert sum(row["seconds"]["generate"] for row in rows) == 1.5 * SHARED["generate"]

    again = run(str(service.http.base_url), "sweep", recipe_file)
    assert again.exit_code == 0 and "a teacher (teacher)" in again.stdout, "all is reused, so the scores are there"
    assert per_stage == Counter(stage for stage, _, _ in workers.made)


def test_percentages_of_the_same_student_are_one_job(
    run: Run, service: Service, workers: Workers, recipe_file: Path
) -> None:
    done = run(str(service.http.base_url), "sweep", recipe_file, *fewer(95, 71, 70, 71), "--wait")
    assert done.exit_code == 0, done.stderr
    assert "70 % and 71 % fewer is the same student, cs3darknet_s: one job." in done.stderr
    text = plain(done.stdout)
    assert "a teacher (teacher) 10,000,000 75.0% 50.0%" in text
    assert "70 %, 71 % cs3darknet_s at 96 px 2,894,416 71.1% 28.9% 25.0% scratch 1.5 s" in text
    assert "95 % test_convnext at 96 px" in text and "images and teacher features took 4.5 s" in text
    assert "Students from scratch have seen nothing but these images" in text
    jobs = service.http.get("/v1/jobs").json()["data"]
    assert [job["name"] for job in jobs] == ["colours, 95 % fewer", "colours, 70 % and 71 % fewer"]


def test_one_that_fails_does_not_stop_the_others(
    run: Run, service: Service, workers: Workers, recipe_file: Path
) -> None:
    workers.broken = "cs3darknet_s"
    done = run(str(service.http.base_url), "sweep", recipe_file, *fewer(70, 95), "--wait", "--json")
    assert done.exit_code == 1
    failed, good = json.loads(done.stdout)
    assert (failed["status"], failed["synthetic"], failed["architecture"]) == ("failed", None, "cs3darknet_s")
    assert good["status"] == "succeeded" and good["synthetic"]["teacher"] == 0.75
    assert "no memory" in done.stderr and "what to do: halve it" in done.stderr


def test_a_teacher_that_nobody_has_loaded_yet(run: Run, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(student={})))  # the tests' teacher has no weights
    done = run(str(service.http.base_url), "sweep", path, *fewer(70, 71), "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("is known once a worker has loaded it") == 1
    rows = json.loads(done.stdout)
    assert [(row["fewer_params"], row["architecture"], row["status"]) for row in rows] == [
        ([70], None, "queued"),
        ([71], None, "queued"),
    ]


@pytest.mark.parametrize(
    ("percents", "message"), [((70, 99.99), "99.99 % fewer than the 10,000,000"), ((70, 100), "less than 100")]
)
def test_nothing_is_queued_where_one_percentage_is_impossible(
    run: Run, service: Service, recipe_file: Path, percents: tuple[float, ...], message: str
) -> None:
    done = run(str(service.http.base_url), "sweep", recipe_file, *fewer(*percents))
    assert done.exit_code == 2
    assert "student.fewer_params" in done.stderr and message in plain(done.stderr)
    assert service.http.get("/v1/jobs").json()["data"] == []


def test_the_usual_percentages_end_with_the_smallest_student(run: Run, service: Service, tmp_path: Path) -> None:
    """Beside a ViT-B/32 no student of the full tier is 97 % smaller."""
    path = tmp_path / "recipe.json"
    teacher = {"model": "ViT-B-32", "pretrained": "datacomp_xl_s13b_b90k"}
    path.write_text(json.dumps(recipe(teacher=teacher, student={"size": "s"})))
    done = run(str(service.http.base_url), "sweep", path, "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert sorted(percent for row in rows for percent in row["fewer_params"]) == [70, 80, 90, 92, 95]
    assert "has 97 % fewer parameters than this teacher: left out" in plain(done.stderr)
    asked = run(str(service.http.base_url), "sweep", path, *fewer(70, 97))
    assert asked.exit_code == 2 and "no student is that small" in plain(asked.stderr)


def test_real_photos_are_named_beside_the_recipe(run: Run, service: Service, recipe_file: Path) -> None:
    done = run(str(service.http.base_url), "sweep", recipe_file, "--dataset", "ds_none")
    assert done.exit_code == 2 and "evaluation.dataset there is no dataset 'ds_none'" in plain(done.stderr)
