"""Every error is problem details, with all wrong fields at once, each with a pointer."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.exceptions import RequestValidationError
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from api.errors import HANDLED, Problem, json_pointer, problem_of
from distillation.protocol import StageError
from state import errors as state_errors
from tests.api.conftest import Service
from tests.api.seeds import recipe


def pointers(service: Service, body: Any, **params: Any) -> dict[str, str]:
    answer = service.http.post("/v1/jobs", json=body, params=params)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422 and problem["title"] and problem["detail"]
    assert problem["type"] == f"urn:stillroom:problem:{problem['code']}"
    return {error["pointer"]: error["message"] for error in problem["errors"]}


def test_all_field_errors_at_once(service: Service) -> None:
    wrong = {
        "recipe": {
            "domain": {"name": "", "classes": ["a", {"name": "b", "colour": "red"}], "templates": ["no place"]},
            "student": {"size": "xxl"},
            "teacher": {"model": "hf-hub:org/name"},
            "data": {"images_per_class": 1, "generator": {"steps": 0}},
            "training": {"losses": {"l3": 1, "mse": -1}, "lr": "fast", "crop_scale": [0.9, 0.1]},
            "evaluation": {"dataset": 5},
            "surprise": 1,
        },
        "metadata": {"a": 1},
        "nonsense": True,
    }
    found = pointers(service, wrong)
    assert found.keys() == {
        "/recipe/domain/name",
        "/recipe/domain/classes/1/colour",
        "/recipe/domain/templates",
        "/recipe/student/size",
        "/recipe/teacher/revision",
        "/recipe/data/images_per_class",
        "/recipe/data/generator/steps",
        "/recipe/training/losses/l3",
        "/recipe/training/losses/mse",
        "/recipe/training/lr",
        "/recipe/training/crop_scale",
        "/recipe/evaluation/dataset",
        "/recipe/surprise",
        "/metadata/a",
        "/nonsense",
    }
    assert found["/recipe/teacher/revision"] == "a hub model needs `revision`, the commit to pin"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "at least 2"),
        (["one"], "at least 2"),
        (["cat", "Cat"], "more than one class"),
        ([f"class {number}" for number in range(10_000)], "at most 5000"),
    ],
)
def test_impossible_domains(service: Service, classes: list[str], message: str) -> None:
    found = pointers(service, {"recipe": recipe(domain={"name": "x", "classes": classes})})
    assert message in found["/recipe/domain/classes"]


def test_preflight_finds_everything_at_once(service: Service) -> None:
    body = {
        "recipe": recipe(
            teacher={"model": "local-dir:/nowhere/teacher"},
            data={"generator": {"model": "/tmp", "lora": "/nowhere/lora", "decoder": "/nowhere/tiny"}},
            student={"max_params": 1000},
            evaluation={"dataset": "ds_none"},
            training={"agnostic": {"source": "/nowhere/photos"}},
        )
    }
    found = pointers(service, body)
    assert found.keys() == {
        "/recipe/teacher/model",
        "/recipe/data/generator/model",
        "/recipe/data/generator/lora",
        "/recipe/data/generator/decoder",
        "/recipe/student/max_params",
        "/recipe/evaluation/dataset",
        "/recipe/training/agnostic/source",
    }
    assert "/nowhere/teacher" in found["/recipe/teacher/model"]
    assert "model_index.json" in found["/recipe/data/generator/model"]
    assert "fewest parameters" in found["/recipe/student/max_params"]
    assert pointers(service, body, dry_run=True) == found
    assert service.http.get("/v1/jobs").json()["data"] == []


def test_what_is_not_valid_and_what_preflight_finds_come_together(service: Service) -> None:
    """Of a section that rests on one with errors nothing is said: here the student, whose teacher is not known."""
    wrong = recipe(
        teacher={"model": "hf-hub:org/name"},
        data={"generator": {"model": "/tmp"}, "images_per_class": 1},
        student={"max_params": 1000},
        evaluation={"dataset": "ds_none"},
        training={"lr": "fast", "agnostic": {"source": "/nowhere/photos"}},
    )
    found = pointers(service, {"recipe": wrong, "nonsense": True})
    assert found.keys() == {
        "/nonsense",
        "/recipe/teacher/revision",
        "/recipe/data/images_per_class",
        "/recipe/training/lr",
        "/recipe/data/generator/model",
        "/recipe/training/agnostic/source",
        "/recipe/evaluation/dataset",
    }
    assert "ds_none" in found["/recipe/evaluation/dataset"]


@pytest.mark.parametrize("content", [None, [], "text", {}, {"domain": {"name": "x", "classes": ["one"]}}])
def test_where_nothing_valid_is_left_the_errors_are_those_of_the_fields(service: Service, content: Any) -> None:
    found = pointers(service, {"recipe": content})
    assert found and all(pointer.startswith("/recipe") for pointer in found)


def test_every_file_of_a_pattern_must_be_there(service: Service, tmp_path: Path) -> None:
    for number in (0, 2):
        (tmp_path / f"{number}.tar").write_bytes(b"")
    body = {"recipe": recipe(training={"agnostic": {"source": f"{tmp_path}/{{0..3}}.tar"}})}
    found = pointers(service, body)
    assert found == {"/recipe/training/agnostic/source": f"{tmp_path}/1.tar and 1 more do not exist on this server"}
    for number in (1, 3):
        (tmp_path / f"{number}.tar").write_bytes(b"")
    first = service.http.post("/v1/jobs", json=body, params={"dry_run": True}).json()["tasks"]
    (tmp_path / "3.tar").write_bytes(b"other photos")
    second = service.http.post("/v1/jobs", json=body, params={"dry_run": True}).json()["tasks"]
    changed = {a["stage"] for a, b in zip(first, second, strict=True) if a["key"] != b["key"]}
    assert changed == {"embed", "agnostic", "distil", "evaluate", "export"}


@pytest.mark.parametrize(
    ("source", "message"),
    [("/photos/{0..3.tar", "{000..009}"), ("/p/{0..99}/{000..999}.tar", "more than 10,000 files")],
)
def test_bad_patterns(service: Service, source: str, message: str) -> None:
    found = pointers(service, {"recipe": recipe(training={"agnostic": {"source": source}})})
    assert message in found["/recipe/training/agnostic/source"]


def test_too_many_tasks(service: Service) -> None:
    found = pointers(service, {"recipe": recipe(data={"images_per_class": 1_000_000, "shard_size": 16})})
    assert "187,500 tasks" in found["/recipe/data/shard_size"]


def test_missing_starter_weights(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("distillation.plan", "api.jobs.preflight"):
        monkeypatch.setattr(f"{module}.STARTER", tmp_path)
    found = pointers(service, {"recipe": {"domain": {"name": "x", "classes": ["a", "b"]}}})
    assert found.keys() == {"/recipe/teacher/model", "/recipe/data/generator/model"}
    assert "make starter" in found["/recipe/teacher/model"]


def test_unknown_architecture(service: Service) -> None:
    found = pointers(service, {"recipe": recipe(student={"architecture": "resnet81"})})
    assert (
        "did you mean" in found["/recipe/student/architecture"] and "resnet18" in found["/recipe/student/architecture"]
    )


@pytest.mark.parametrize(
    ("teacher", "field", "message"),
    [
        ({"model": "ViT-B-99", "pretrained": "openai"}, "model", "did you mean ViT-B-"),
        ({"model": "ViT-B-32", "pretrained": "nope"}, "pretrained", "there are "),
    ],
)
def test_unknown_teacher(service: Service, teacher: dict[str, str], field: str, message: str) -> None:
    found = pointers(service, {"recipe": recipe(teacher=teacher)})
    assert message in found[f"/recipe/teacher/{field}"]


def test_classes_that_the_generator_cannot_draw(service: Service) -> None:
    domain = {"name": "x", "classes": ["orange", "bannana", "Lemon", "xyzzy gadget"]}
    found = pointers(service, {"recipe": {"domain": domain}})
    assert found.keys() == {"/recipe/domain/classes/1", "/recipe/domain/classes/3"}
    assert "Did you mean 'banana'?" in found["/recipe/domain/classes/1"]
    drawn = service.http.get("/v1/catalogue/generators").json()["data"]
    assert ["orange"] in next(row["classes"] for row in drawn if row["model"] == "starter")
    assert {row["classes"] for row in drawn if row["model"] != "starter"} == {None}


def test_the_budget_that_fails_is_told(service: Service) -> None:
    found = pointers(service, {"recipe": recipe(student={"max_params": 1_000_000, "max_macs": 10})})
    assert found.keys() == {"/recipe/student/max_macs"}


def test_numbers_without_end_and_control_characters(service: Service) -> None:
    body = """{"recipe": {"domain": {"name": "a\\u0000b", "classes": ["orange", "lemon"]},
      "training": {"minutes": "inf", "losses": {"l2": 1e400}}}, "metadata": {"a": "\\u0007"}}"""
    answer = service.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {
        "/recipe/domain/name",
        "/recipe/training/minutes",
        "/recipe/training/losses/l2",
        "/metadata",
    }


def test_broken_json_and_missing_body(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    broken = service.http.post("/v1/jobs", content=b'{"recipe": ', headers=headers).json()
    assert broken["errors"][0]["pointer"] == "" and "JSON" in broken["errors"][0]["message"]
    assert service.http.post("/v1/jobs").status_code == 422
    assert "/recipe" in pointers(service, {})


def test_wrong_query_path_and_method(service: Service) -> None:
    answer = service.http.get("/v1/jobs", params={"limit": 0, "status": "sleeping"}).json()
    where = {(error["in"], error["pointer"]) for error in answer["errors"]}
    assert where == {("query", "/limit"), ("query", "/status/0")}
    for path in ("/v1/jobs/job_x", "/v1/encoders/enc_x/archive", "/v1/datasets/ds_x", "/v1/nothing", "/x"):
        missing = service.http.get(path)
        assert missing.status_code == 404 and missing.json()["code"] == "not_found", path
    wrong = service.http.put("/v1/jobs")
    assert wrong.status_code == 405 and wrong.json()["code"] == "method_not_allowed" and "allow" in wrong.headers


@pytest.mark.parametrize("after", ["nope", "", "job_", "enc_0123"])
def test_a_cursor_of_no_page_is_said_instead_of_page_one(service: Service, after: str) -> None:
    job = service.submit()["id"]
    for path in ("/v1/jobs", "/v1/encoders", "/v1/datasets", f"/v1/jobs/{job}/samples", f"/v1/jobs/{job}/events"):
        answer = service.http.get(path, params={"after": after})
        assert answer.status_code == 422, path
        assert [(error["in"], error["pointer"]) for error in answer.json()["errors"]] == [("query", "/after")]
    assert service.http.get("/v1/encoders", params={"after": job}).status_code == 422
    assert service.http.get("/v1/jobs", params={"after": job}).status_code == 200


def test_body_too_large(service: Service) -> None:
    def chunks() -> Any:
        for _ in range(9):
            yield b" " * (1 << 20)

    headers = {"Content-Type": "application/json"}
    declared = service.http.post("/v1/jobs", content=b" " * (9 << 20), headers=headers)
    streamed = service.http.post("/v1/jobs", content=chunks(), headers=headers)
    for answer in (declared, streamed):
        assert answer.status_code == 413 and answer.json()["code"] == "payload_too_large"


def test_api_key(start: Callable[..., Service]) -> None:
    service = start(api_key="sesame")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c2VzYW1l"}):
        answer = service.http.get("/v1/jobs", headers=headers)
        assert answer.status_code == 401 and answer.json()["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
    # An upload without the key is refused before any of it is kept.
    refused = service.http.post("/v1/datasets", files={"file": ("x.zip", b"x" * 100_000)})
    assert refused.status_code == 401 and not (service.settings.home / "uploads").exists()
    assert service.http.get("/v1/jobs", headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert service.http.get("/livez").status_code == 200


def test_every_error_of_the_layers_below_is_mapped() -> None:
    internal = {"StaleToken"}  # between workers and state only
    kinds = [kind for kind in vars(state_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    named = {kind.__name__ for kind in kinds}
    assert named - internal <= {kind.__name__ for kind in HANDLED}
    cases: list[tuple[Exception, int, str]] = [
        (state_errors.IdempotencyConflict("x"), 422, "idempotency_mismatch"),
        (state_errors.NotRetryable("x"), 409, "conflict"),
        (StageError("weights_missing", "x", "y", "teacher.model"), 422, "weights_missing"),
        (StageError("disk_full", "x"), 507, "disk_full"),
        (OperationalError("SELECT 1", {}, sqlite3.OperationalError("x")), 503, "unavailable"),
        (OSError(errno.ENOSPC, "x"), 507, "disk_full"),
        (OSError(errno.EIO, "x"), 500, "internal"),
        (RequestValidationError([]), 422, "invalid_request"),
        (HTTPException(404), 404, "not_found"),
        (KeyError("secret"), 500, "internal"),
    ]
    for error, status, code in cases:
        problem = problem_of(error)
        assert (problem.status, problem.code) == (status, code), error
        assert "secret" not in problem.detail
    assert problem_of(StageError("x", "m", "", "teacher.model")).errors[0].pointer == "/teacher/model"


def test_json_pointer_escapes() -> None:
    assert json_pointer(["a/b", "c~d", 0, "[key]"]) == "/a~1b/c~0d/0"
    assert json_pointer([]) == ""


def test_a_database_whose_disk_is_full_is_507(start: Callable[..., Service]) -> None:
    service = start()

    def limit(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite makes it the pages that there are

    event.listen(service.engine, "checkout", limit)
    answers = (service.http.post("/v1/jobs", json={"recipe": recipe()}) for _ in range(100))
    full = next(answer for answer in answers if answer.status_code != 202)
    assert full.status_code == 507 and full.json()["code"] == "disk_full"
    assert service.http.get("/v1/jobs").status_code == 200
    assert problem_of(OperationalError("INSERT", {}, psycopg.errors.DiskFull("x"))).code == "disk_full"


def test_a_database_that_is_away_is_503(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr("state.jobs.get_job", away)
    answer = service.http.get("/v1/jobs/job_x")
    assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json()["code"] == "unavailable"
    assert isinstance(problem_of(Problem(418, "teapot", "x")), Problem)
