"""``/v1/datasets``: uploads checked, kept, used and deleted; hostile ones refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from tests.api.conftest import Service
from tests.api.seeds import CLASSES, picture, recipe


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def photos(names: list[str] = CLASSES) -> dict[str, bytes]:
    return {f"{name}/{i}.jpg": picture((80 * i, 90, 30 * i)) for name in names for i in range(2)}


def upload(service: Service, content: bytes, name: str = "photos.zip", **parts: Any) -> httpx.Response:
    return service.http.post("/v1/datasets", files={"file": (name, content)}, **parts)


def test_life_of_a_dataset(any_service: Service) -> None:
    http = any_service.http
    answer = upload(any_service, zipped({**photos(), f"{CLASSES[0]}/broken.jpg": b"no photo"}), data={"name": "mine"})
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["images"], sorted(dataset["classes"])) == ("mine", 6, sorted(CLASSES))
    assert len(dataset["rejected"]) == 1 and "broken.jpg" in dataset["rejected"][0]["file"]
    assert http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert http.get("/v1/datasets").json() == {"data": [dataset], "next": None}
    assert list((any_service.settings.home / "uploads").iterdir()) == []
    kept = any_service.blobs.bundle(_bundle(any_service, dataset["id"]))
    assert kept.keys() == {"images.npy", "labels.npy", "dataset.json"}

    job = http.post("/v1/jobs", json={"recipe": recipe(evaluation={"dataset": dataset["id"]})}).json()
    refused = http.delete(f"/v1/datasets/{dataset['id']}")
    assert refused.status_code == 409 and job["id"] in refused.json()["detail"]
    http.post(f"/v1/jobs/{job['id']}/cancel")
    agnostic = recipe(training={"agnostic": {"source": dataset["id"]}})
    second = http.post("/v1/jobs", json={"recipe": agnostic}).json()
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 409
    http.post(f"/v1/jobs/{second['id']}/cancel")
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert http.get(f"/v1/datasets/{dataset['id']}").status_code == 404
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 404


def _bundle(service: Service, dataset_id: str) -> str:
    from state.database import read_scope
    from state.tables import Dataset

    with read_scope(service.engine) as session:
        return session.get_one(Dataset, dataset_id).bundle


def test_every_photo_left_out_is_counted(service: Service) -> None:
    photo = picture((90, 9, 9))
    files = {f"{CLASSES[i % 2]}/{i}.jpg": photo for i in range(1001)}
    broken = {f"{CLASSES[i % 2]}/broken{i}.jpg": b"no photo" for i in range(1001)}
    dataset = upload(service, zipped({**files, **broken})).json()
    assert (dataset["images"], dataset["rejected_count"], len(dataset["rejected"])) == (1001, 1001, 1000)
    assert service.http.get(f"/v1/datasets/{dataset['id']}").json() == dataset


def test_parquet_with_class_names_beside_it(service: Service) -> None:
    rows = [{"bytes": picture((90 * index, 9, 9)), "path": f"{index}.jpg"} for index in range(3)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), buffer)
    names = "label\tnames\n" + "".join(f"{index}\t{name}\n" for index, name in enumerate(CLASSES))
    files = {"file": ("photos.parquet", buffer.getvalue()), "classes": ("classes.tsv", names.encode())}
    answer = service.http.post("/v1/datasets", files=files)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["images"], answer.json()["classes"]) == (3, CLASSES)
    assert answer.json()["name"] == "photos.parquet"


def test_classes_that_share_none_with_the_domain(service: Service) -> None:
    dataset = upload(service, zipped(photos(["cat", "dog"]))).json()
    answer = service.http.post("/v1/jobs", json={"recipe": recipe(evaluation={"dataset": dataset["id"]})})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == "/recipe/evaluation/dataset" and error["code"] == "bad_dataset"
    assert "'cat'" in error["message"]
    partly = upload(service, zipped(photos([CLASSES[0], "dog"]))).json()
    body = {"recipe": recipe(evaluation={"dataset": partly["id"]}, student={"size": "xs"})}
    plan = service.http.post("/v1/jobs?dry_run=1", json=body).json()
    assert any(CLASSES[1] in warning for warning in plan["warnings"])


def test_bad_files(service: Service) -> None:
    bomb = zipped({f"{CLASSES[0]}/a.jpg": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    for content in (b"neither zip nor parquet", b"", zipped({}), zipped({"a/b.jpg": b"x"}), b"PAR1broken", bomb):
        answer = upload(service, content)
        assert answer.status_code == 422, content[:20]
        problem = answer.json()
        assert problem["code"] == "bad_dataset" and problem["errors"][0]["pointer"] == "/file"
    escaping = upload(service, zipped({"../../evil/a.jpg": picture((1, 2, 3)), **photos()}))
    assert escaping.status_code in (201, 422)
    assert not list(service.settings.home.parent.rglob("evil"))
    assert list((service.settings.home / "uploads").iterdir()) == []


def test_bad_forms(service: Service) -> None:
    http = service.http
    assert http.post("/v1/datasets", content=zipped(photos())).status_code == 415
    assert http.post("/v1/datasets", json={"file": "x"}).status_code == 415
    missing = http.post("/v1/datasets", files={"photos": ("x.zip", b"PK")})
    assert missing.status_code == 422 and "photos" in missing.json()["detail"]
    text_only = http.post("/v1/datasets", files={"name": (None, "x")})
    assert text_only.json()["errors"][0]["pointer"] == "/file"
    twice = http.post("/v1/datasets", files=[("file", ("a.zip", b"a")), ("file", ("b.zip", b"b"))])
    assert twice.status_code == 422 and "twice" in twice.json()["detail"]
    long_name = http.post("/v1/datasets", files={"name": (None, "x" * 5000), "file": ("a.zip", b"a")})
    assert long_name.status_code == 422
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    body = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\nPK'
    cut_off = http.post("/v1/datasets", content=body, headers=headers)
    assert cut_off.status_code == 422 and "boundary" in cut_off.json()["detail"]


def test_upload_larger_than_allowed(start: Callable[..., Service]) -> None:
    service = start(max_upload_bytes=100_000)
    assert upload(service, bytes(200_000)).status_code == 413

    def chunks() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        for _ in range(20):
            yield bytes(10_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = service.http.post("/v1/datasets", content=chunks(), headers=headers)
    assert answer.status_code == 413 and answer.json()["code"] == "payload_too_large"
    assert list((service.settings.home / "uploads").iterdir()) == []
