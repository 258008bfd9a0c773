"""The client against the real API: what both sides believe about the wire is the same."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from stillroom.client import Stillroom
from stillroom.errors import Conflict, Invalid, NotFound, Unauthorized

from state.settings import Settings
from tests.api.conftest import Service, serve
from tests.api.seeds import CLASSES, finish_job, picture, recipe
from tests.client.conftest import Run


@pytest.fixture(scope="module")
def url(real: Service) -> str:
    return str(real.http.base_url)


@pytest.fixture(scope="module")
def done(real: Service, service: Stillroom) -> dict[str, Any]:
    """A job brought to its end."""
    job = service.submit(recipe(), name="monday", metadata={"team": "colours"})
    finish_job(real.engine, real.blobs, job["id"], real.scratch)
    return {**service.job(job["id"])}


def test_submitted_job_as_it_is_read(service: Stillroom, done: dict[str, Any]) -> None:
    assert done["status"] == "succeeded"
    assert done["name"] == "monday"
    assert [stage["stage"] for stage in done["stages"]] == ["prompts", "generate", "distil", "evaluate", "export"]
    assert done["id"] in [job["id"] for job in service.jobs(status="succeeded", metadata={"team": "colours"})]
    assert list(service.jobs(metadata={"team": "nobody"})) == []


def test_same_idempotency_key_gives_the_same_job(service: Stillroom) -> None:
    first = service.submit(recipe(), idempotency_key="once")
    assert service.submit(recipe(), idempotency_key="once")["id"] == first["id"]
    assert service.submit(recipe())["id"] != first["id"]


def test_waiting_for_a_finished_job(service: Stillroom, done: dict[str, Any]) -> None:
    seen: list[int] = []
    assert service.wait(done["id"], lambda event: seen.append(event["id"]))["id"] == done["id"]
    assert seen == [event["id"] for event in service.events(done["id"])]
    assert seen == sorted(seen) and len(seen) > 5


def test_pages_are_joined(service: Stillroom, monkeypatch: pytest.MonkeyPatch, done: dict[str, Any]) -> None:
    whole = [event["id"] for event in service.events(done["id"])]
    monkeypatch.setattr("stillroom.connection.PAGE", 2)
    assert [event["id"] for event in service.events(done["id"])] == whole
    assert len(service.samples(done["id"])) == 9


def test_every_error_of_a_recipe_at_once(service: Stillroom) -> None:
    wrong = {"domain": {"name": "x", "classes": ["one"]}, "student": {"size": "xxl"}, "nonsense": 1}
    with pytest.raises(Invalid) as caught:
        service.submit(wrong)
    assert {item.field for item in caught.value.fields} >= {"domain.classes", "student.size", "nonsense"}


def test_cancel_then_retry(service: Stillroom, done: dict[str, Any]) -> None:
    job = service.submit(recipe(data={"images_per_class": 30}))
    assert service.cancel(job["id"])["status"] == "cancelled"
    assert service.retry(job["id"])["status"] == "queued"
    service.cancel(job["id"])
    with pytest.raises(Conflict):
        service.cancel(done["id"])
    with pytest.raises(NotFound):
        service.job("job_unknown")


def test_a_job_is_deleted_once_it_is_over(run: Run, url: str, service: Stillroom) -> None:
    identity = service.submit(recipe(data={"images_per_class": 31}))["id"]
    refused = run(url, "delete", identity)
    assert refused.exit_code == 4 and "cancel it" in refused.stderr
    service.cancel(identity)
    done = run(url, "delete", identity, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"id": identity, "deleted": True}
    with pytest.raises(NotFound):
        service.job(identity)
    with pytest.raises(NotFound):
        service.delete_job(identity)


def test_encoder_files_and_resume(service: Stillroom, done: dict[str, Any], tmp_path: Path) -> None:
    encoder = service.encoder(done["encoder_id"])
    assert encoder["id"] in [item["id"] for item in service.encoders()]
    weights = next(file for file in encoder["files"] if file["name"] == "open_clip_model.safetensors")
    part = tmp_path / f"{weights['name']}.{weights['sha256'][:12]}.part"
    part.write_bytes((bytes(range(256)) * 40)[:1000])
    paths = service.download(encoder["id"], tmp_path)
    assert {path.name for path in paths} == {file["name"] for file in encoder["files"]}
    for path, file in zip(paths, encoder["files"], strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
    assert not part.exists()


def test_classify(run: Run, url: str, done: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "green.jpg").write_bytes(picture((10, 240, 10)))
    answer = run(url, "classify", done["id"], tmp_path / "green.jpg", "--json")
    assert answer.exit_code == 0, answer.stderr
    (found,) = json.loads(answer.stdout)
    assert found["probabilities"][0]["label"] == "green thing"
    assert sum(item["probability"] for item in found["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert "green thing" in run(url, "classify", done["encoder_id"], tmp_path / "green.jpg", "--top", 1).stdout
    (tmp_path / "text.jpg").write_text("no image")
    assert run(url, "classify", done["id"], tmp_path / "text.jpg").exit_code == 2


def test_samples(run: Run, url: str, done: dict[str, Any], tmp_path: Path) -> None:
    answer = run(url, "samples", done["id"], tmp_path, "--json")
    assert answer.exit_code == 0, answer.stderr
    rows = json.loads(answer.stdout)
    assert rows == json.loads((tmp_path / "samples.json").read_text())
    assert {row["class"] for row in rows} == set(CLASSES)
    assert all((tmp_path / row["file"]).read_bytes().startswith(b"\xff\xd8") for row in rows)


def test_dry_run_tells_the_cost(run: Run, url: str, service: Stillroom, done: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(recipe()))
    before = len(list(service.jobs()))
    answer = run(url, "submit", tmp_path / "recipe.json", "--dry-run", "--json")
    assert answer.exit_code == 0, answer.stderr
    content = json.loads(answer.stdout)
    assert content["estimate"]["images"] == 36
    text = run(url, "submit", tmp_path / "recipe.json", "--dry-run").stdout
    assert "resnet18" in text and "images_per_class: 12" in text and "reused from earlier jobs" in text
    assert len(list(service.jobs())) == before


def test_report_and_lists_as_json(run: Run, url: str, done: dict[str, Any]) -> None:
    for arguments in (("report", done["id"]), ("jobs",), ("encoders",), ("encoders", done["id"]), ("show", done["id"])):
        answer = run(url, *arguments, "--json")
        assert answer.exit_code == 0, answer.stderr
        assert json.loads(answer.stdout)
    for arguments in (("jobs",), ("encoders",), ("encoders", done["id"]), ("show", done["id"]), ("events", done["id"])):
        answer = run(url, *arguments)
        assert answer.exit_code == 0, answer.stderr
        assert len(answer.stdout.splitlines()) > 2


def test_catalogue_of_every_kind(run: Run, url: str) -> None:
    answer = run(url, "catalogue", "--json")
    assert answer.exit_code == 0, answer.stderr
    parts = json.loads(answer.stdout)
    assert set(parts) == {"teachers", "students", "generators", "losses"}
    assert all(parts.values())
    assert "l2" in run(url, "catalogue", "losses").stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class, and one file that is no photo."""
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for shade in range(3):
            (folder / name / f"{shade}.jpg").write_bytes(picture((60 * shade, 80 * index, 7)))
    (folder / CLASSES[0] / "broken.jpg").write_bytes(b"no photo")
    return folder


def test_dataset_from_a_folder(run: Run, url: str, photos: Path) -> None:
    answer = run(url, "datasets", "add", photos, "--name", "colours", "--json")
    assert answer.exit_code == 0, answer.stderr
    dataset = json.loads(answer.stdout)
    assert (dataset["name"], dataset["images"], dataset["rejected_count"]) == ("colours", 9, 1)
    assert set(dataset["classes"]) == set(CLASSES)
    text = run(url, "datasets", "show", dataset["id"]).stdout
    assert "broken.jpg" in text and "blue thing" in text
    assert dataset["id"] in run(url, "datasets", "list").stdout
    assert run(url, "datasets", "delete", dataset["id"]).exit_code == 0
    assert run(url, "datasets", "show", dataset["id"]).exit_code == 4


def test_dataset_from_a_zip_of_the_users(service: Stillroom, photos: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.rglob("*.jpg"):
            archive.write(path, path.relative_to(photos))
    sent: list[tuple[int, int]] = []
    dataset = service.add_dataset(tmp_path / "photos.zip", on_bytes=lambda done, size: sent.append((done, size)))
    size = (tmp_path / "photos.zip").stat().st_size
    assert (dataset["name"], dataset["images"]) == ("photos", 9)
    assert sent[-1] == (size, size)


def test_dataset_from_parquet_takes_its_class_names_along(service: Stillroom, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": picture((90 * index, 9, 9)), "path": f"{index}.jpg"} for index in range(3)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), tmp_path / "colours.parquet")
    lines = ["label\tnames", *(f"{index}\t{name}, other {name}" for index, name in enumerate(CLASSES))]
    (tmp_path / "classes.tsv").write_text("\n".join(lines) + "\n")
    dataset = service.add_dataset(tmp_path / "colours.parquet")
    assert dataset["images"] == 3
    assert dataset["classes"][0].startswith(CLASSES[0])


def test_a_dataset_without_a_photo_is_refused(run: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"no photo")
    answer = run(url, "datasets", "add", tmp_path)
    assert answer.exit_code == 2
    assert "no usable photo" in answer.stderr


def test_api_key(run: Run, tmp_path: Path) -> None:
    with serve(Settings(home=tmp_path / "home", api_key="secret"), tmp_path / "scratch") as running:
        url = str(running.http.base_url)
        with Stillroom(url) as stranger, pytest.raises(Unauthorized):
            list(stranger.jobs())
        with Stillroom(url, api_key="secret") as friend:
            assert list(friend.jobs()) == []
        answer = run(url, "jobs")
        assert answer.exit_code == 4
        assert "--api-key" in answer.stderr
        assert run(url, "--api-key", "secret", "jobs").exit_code == 0
