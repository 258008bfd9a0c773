"""Encoders and their files: ranges, ETags, archives."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from stillroom.client import Stillroom

from api.errors import Problem
from api.files import etag_matches, parse_range
from state.database import read_scope
from state.tables import Result
from tests.api.conftest import Service

NAME = "open_clip_model.safetensors"
CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def encoder(service: Service) -> dict[str, Any]:
    job = service.finish(service.submit()["id"])
    return dict(service.http.get(f"/v1/encoders/{job['encoder_id']}").json())


@pytest.fixture
def url(encoder: dict[str, Any]) -> str:
    return f"/v1/encoders/{encoder['id']}/files/{NAME}"


def test_encoder(service: Service, encoder: dict[str, Any]) -> None:
    assert encoder["student"]["architecture"] == "resnet18" and encoder["classes"] == 3
    assert encoder["report"]["domain"] == "colours"
    files = {file["name"]: file for file in encoder["files"]}
    assert files[NAME]["sha256"] == SHA and files[NAME]["size"] == len(CONTENT)
    listed = service.http.get("/v1/encoders", params={"limit": 1}).json()["data"]
    assert listed[0]["id"] == encoder["id"] and listed[0]["size"] == sum(file["size"] for file in encoder["files"])
    assert "files" not in listed[0]
    assert service.http.get("/v1/encoders/enc_none").status_code == 404


def test_whole_file(service: Service, url: str) -> None:
    answer = service.http.get(url)
    assert answer.status_code == 200 and answer.content == CONTENT
    assert answer.headers["etag"] == f'"{SHA}"'
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["accept-ranges"] == "bytes"
    assert NAME in answer.headers["content-disposition"]
    labels = service.http.get(url.replace(NAME, "labels.json"))
    assert labels.headers["content-type"] == "application/json"


def test_head(service: Service, url: str) -> None:
    answer = service.http.head(url)
    assert answer.status_code == 200 and answer.content == b""
    assert answer.headers["content-length"] == str(len(CONTENT)) and answer.headers["etag"] == f'"{SHA}"'
    part = service.http.head(url, headers={"Range": "bytes=5-9"})
    assert part.status_code == 206 and part.headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=10000-", 10000, 10240),
        ("bytes=-10", 10230, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=10200-99999", 10200, 10240),
        ("BYTES=1-2", 1, 3),
    ],
)
def test_range(service: Service, url: str, header: str, start: int, end: int) -> None:
    answer = service.http.get(url, headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("header", ["bytes=9-5", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=a-b"])
def test_ignored_range(service: Service, url: str, header: str) -> None:
    answer = service.http.get(url, headers={"Range": header})
    assert answer.status_code == 200 and answer.content == CONTENT


@pytest.mark.parametrize("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_impossible_range(service: Service, url: str, header: str) -> None:
    answer = service.http.get(url, headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    ("if_range", "status"), [(f'"{SHA}"', 206), ('"other"', 200), (f'W/"{SHA}"', 200), ("Mon, 01 Jan 2024", 200)]
)
def test_if_range(service: Service, url: str, if_range: str, status: int) -> None:
    answer = service.http.get(url, headers={"Range": "bytes=1-4", "If-Range": if_range})
    assert answer.status_code == status
    assert answer.content == (CONTENT[1:5] if status == 206 else CONTENT)


@pytest.mark.parametrize(
    ("tags", "status"), [(f'"{SHA}"', 304), (f'W/"{SHA}"', 304), (f'"x", "{SHA}"', 304), ("*", 304), ('"x"', 200)]
)
def test_if_none_match(service: Service, url: str, tags: str, status: int) -> None:
    # A 304 comes before any range is looked at, even one that could not be served.
    for extra in ({}, {"Range": "bytes=1-4"}):
        answer = service.http.get(url, headers={"If-None-Match": tags, **extra})
        assert answer.status_code == (206 if status == 200 and extra else status)
        assert answer.headers["etag"] == f'"{SHA}"'
    assert service.http.head(url, headers={"If-None-Match": tags}).status_code == status


def test_resumed_download_is_whole(service: Service, url: str) -> None:
    first = service.http.get(url, headers={"Range": "bytes=0-4000"})
    rest = service.http.get(url, headers={"Range": "bytes=4001-", "If-Range": first.headers["etag"]})
    assert hashlib.sha256(first.content + rest.content).hexdigest() == SHA


@pytest.mark.parametrize("name", ["nothing.bin", "../secrets", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/etc/passwd"])
def test_names_are_looked_up_and_never_joined(service: Service, encoder: dict[str, Any], name: str) -> None:
    answer = httpx.get(f"{service.http.base_url}/v1/encoders/{encoder['id']}/files/{name}")
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


def test_archive(service: Service, encoder: dict[str, Any]) -> None:
    answer = service.http.get(encoder["archive_url"])
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(answer.content))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        packed = {info.filename: archive.read(info) for info in archive.infolist()}
    assert {f"{encoder['id']}/{file['name']}" for file in encoder["files"]} == packed.keys()
    for file in encoder["files"]:
        assert hashlib.sha256(packed[f"{encoder['id']}/{file['name']}"]).hexdigest() == file["sha256"]
    again = service.http.get(encoder["archive_url"], headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_files_come_from_object_storage_by_themselves(start: Callable[..., Service], s3_url: str) -> None:
    service = start(blobs_url=s3_url, api_key="secret")
    service.http.headers["Authorization"] = "Bearer secret"
    job = service.finish(service.submit()["id"])
    url = f"/v1/encoders/{job['encoder_id']}/files/{NAME}"
    answer = service.http.get(url)
    assert answer.status_code == 307 and answer.headers["cache-control"] == "no-store"
    assert not answer.headers["location"].startswith(str(service.http.base_url))
    file = service.http.get(url, headers={"Range": "bytes=256-"}, follow_redirects=True)
    assert file.content == CONTENT[256:] and NAME in file.headers["content-disposition"]
    assert "authorization" not in file.request.headers, "the storage is not told the service's key"
    assert service.http.head(url).headers["content-length"] == str(len(CONTENT)), "a signature is for GET alone"
    archive = service.http.get(f"/v1/encoders/{job['encoder_id']}/archive")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as packed:
        assert packed.read(f"{job['encoder_id']}/{NAME}") == CONTENT
    with Stillroom(str(service.http.base_url), api_key="secret") as client:
        saved = client.download(job["encoder_id"], service.scratch / "saved")
    assert CONTENT in [path.read_bytes() for path in saved]


def test_a_file_that_is_gone_is_said_to_be_and_made_again(any_service: Service) -> None:
    http = any_service.http
    job = any_service.finish(any_service.submit()["id"])
    encoder = f"/v1/encoders/{job['encoder_id']}"
    url = f"{encoder}/files/{NAME}"
    any_service.blobs.delete(SHA)
    for answer in (http.get(url), http.get(url, headers={"Range": "bytes=5-9"}), http.get(f"{encoder}/archive")):
        assert answer.status_code == 410 and answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == "gone" and NAME in problem["detail"] and "submit the same recipe" in problem["detail"]
        assert "labels.json" not in problem["detail"]
    head = http.head(url)
    assert (head.status_code, head.headers["cache-control"]) == (410, "no-store")
    assert http.get(f"{encoder}/files/labels.json").status_code == 200

    again = any_service.submit()
    assert {stage["stage"]: stage["reused"] for stage in again["stages"]}["export"] == 0
    assert sum(stage["reused"] for stage in again["stages"]) == 6, "what is whole is reused"
    made = any_service.finish(again["id"])
    assert http.get(f"/v1/encoders/{made['encoder_id']}/files/{NAME}").content == CONTENT


def test_an_object_that_is_gone_gets_no_signed_url(start: Callable[..., Service], s3_url: str) -> None:
    service = start(blobs_url=s3_url)
    job = service.finish(service.submit()["id"])
    service.blobs.delete(SHA)
    url = f"/v1/encoders/{job['encoder_id']}/files/{NAME}"
    assert service.http.get(url).status_code == service.http.head(url).status_code == 410


def test_samples_that_are_gone(start: Callable[..., Service]) -> None:
    service = start()
    job = service.finish(service.submit()["id"])
    samples = f"/v1/jobs/{job['id']}/samples"
    outputs = _outputs(service, "generate")
    for name, url in (("samples/0.jpg", f"{samples}/0"), ("samples.json", samples)):
        for files in outputs:
            service.blobs.delete(files[name]["sha256"])
        answer = service.http.get(url)
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert service.submit()["stages"][1]["reused"] == 0


def _outputs(service: Service, stage: str) -> list[dict[str, Any]]:
    with read_scope(service.engine) as session:
        return list(session.scalars(select(Result.files).where(Result.stage == stage)))


def test_parse_range_of_an_empty_file() -> None:
    with pytest.raises(Problem, match="range_not_satisfiable"):
        parse_range("bytes=0-", 0)
    assert parse_range("bytes=0-0", 1) == (0, 1)
    assert not etag_matches("", "a")
