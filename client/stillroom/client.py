"""The SDK: every endpoint of the service as one method.

with Stillroom("http://127.0.0.1:8321") as service:
    job = service.submit({"domain": {"name": "fruit", "classes": ["orange", "banana"]}})
    job = service.wait(job["id"])
    service.download(job["encoder_id"], Path("fruit-encoder"))
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from stillroom.connection import Connection, part
from stillroom.downloads import download_file
from stillroom.errors import BadInput, Conflict, JobFailed, NotFound
from stillroom.events import follow
from stillroom.schemas import (
    OVER,
    Encoder,
    EncoderSummary,
    Event,
    File,
    Generator,
    GeneratorSummary,
    Job,
    JobSummary,
    Probability,
)
from stillroom.uploads import CONTENT_TYPES, CountingReader, class_names_beside, packed

STREAM_TIMEOUT = httpx.Timeout(10.0, read=60.0)  # the service pings every 15 s
UPLOAD_TIMEOUT = httpx.Timeout(30.0, read=600.0)  # a data set is checked photo by photo before the answer


class Stillroom(Connection):
    """A service's endpoints; how it is reached: :class:`Connection`."""

    # Jobs

    def submit(
        self,
        recipe: Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job. Sending the same `idempotency_key` again gives the same job, not a second one."""
        # A key of our own where none is given: the request may then be repeated when its answer gets lost.
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        body = _job_body(recipe, name, metadata)
        return cast(Job, self._send("POST", "/v1/jobs", json=body, headers=headers, repeat=True))

    def estimate(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Check a recipe and estimate its cost without queueing anything (`?dry_run=true`)."""
        body = _job_body(recipe, None, None)
        return self._send("POST", "/v1/jobs", json=body, params={"dry_run": "true"}, repeat=True)

    def jobs(
        self, *, status: str | None = None, metadata: Mapping[str, str] | None = None, limit: int | None = None
    ) -> Iterator[JobSummary]:
        """Jobs, newest first: all, or `limit` of them."""
        params = {"status": status} if status else {}
        params |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        return cast(Iterator[JobSummary], self._pages("/v1/jobs", params, limit))

    def job(self, job_id: str) -> Job:
        return cast(Job, self._send("GET", f"/v1/jobs/{part(job_id)}"))

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be stopped; it keeps what it has finished."""
        return cast(Job, self._send("POST", f"/v1/jobs/{part(job_id)}/cancel"))

    def retry(self, job_id: str) -> Job:
        """Put a failed or cancelled job back in the queue; finished stages are kept."""
        return cast(Job, self._send("POST", f"/v1/jobs/{part(job_id)}/retry"))

    def delete_job(self, job_id: str) -> None:
        """Delete a job that is over, with its events and samples and the encoder or generator it made.

        Raises:
            Conflict: it is not over, or an unfinished job uses its generator.
        """
        self._respond("DELETE", f"/v1/jobs/{part(job_id)}")

    def report(self, job_id: str) -> dict[str, Any]:
        return self._send("GET", f"/v1/jobs/{part(job_id)}/report")

    def samples(self, job_id: str) -> list[dict[str, Any]]:
        """Some of a job's synthetic images: class, prompt, seed and the `url` of each picture."""
        return list(self._pages(f"/v1/jobs/{part(job_id)}/samples"))

    def checkpoints(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._pages(f"/v1/jobs/{part(job_id)}/checkpoints"))

    def artifacts(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._pages(f"/v1/jobs/{part(job_id)}/artifacts"))

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The events so far, oldest first, from the one after `after`."""
        params = {"after": str(after)} if after else {}
        return cast(Iterator[Event], self._pages(f"/v1/jobs/{part(job_id)}/events", params))

    def follow(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Events as they happen, until the job is over. Lost connections are taken up again."""
        path = f"/v1/jobs/{part(job_id)}/events"

        def connect(last: int) -> AbstractContextManager[httpx.Response]:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last else {})
            return self._http.stream("GET", path, headers=headers, timeout=STREAM_TIMEOUT)

        def is_over(last: int) -> bool:
            return self.job(job_id)["status"] in OVER and next(self.events(job_id, last), None) is None

        return follow(connect, is_over, after)

    def wait(self, job_id: str, on_event: Callable[[Event], None] = lambda event: None) -> Job:
        """Block until the job has succeeded.

        Raises:
            JobFailed: it failed or was cancelled.
        """
        for event in self.follow(job_id):
            on_event(event)
        job = self.job(job_id)
        if job["status"] != "succeeded":
            raise JobFailed(job)
        return job

    # Encoders

    def encoders(self) -> Iterator[EncoderSummary]:
        """Encoders, newest first."""
        return cast(Iterator[EncoderSummary], self._pages("/v1/encoders"))

    def encoder(self, encoder_id: str) -> Encoder:
        return cast(Encoder, self._send("GET", f"/v1/encoders/{part(encoder_id)}"))

    def download(
        self,
        encoder_id: str,
        folder: Path,
        name: str | None = None,
        on_bytes: Callable[[File, int], None] = lambda file, size: None,
    ) -> list[Path]:
        """Bring an encoder's files, or the one called `name`, into `folder`; goes on where an earlier try stopped.

        Raises:
            NotFound: the encoder has no such file.
        """
        files = self.encoder(encoder_id)["files"]
        chosen = [file for file in files if name in (None, file["name"])]
        if not chosen:
            names = ", ".join(file["name"] for file in files)
            raise NotFound(404, {"title": "Not Found", "detail": f"{encoder_id} has no file {name!r}; it has: {names}"})
        return [self._download_file(f"/v1/encoders/{part(encoder_id)}", file, folder, on_bytes) for file in chosen]

    def _download_file(self, owner: str, file: File, folder: Path, on_bytes: Callable[[File, int], None]) -> Path:
        path = f"{owner}/files/{quote(file['name'])}"

        def open_file(headers: dict[str, str]) -> httpx.Response:
            return self._http.send(self._http.build_request("GET", path, headers=headers), stream=True)

        return download_file(open_file, file, folder, lambda size: on_bytes(file, size))

    def classify(self, encoder_id: str, image: Path) -> list[Probability]:
        """What the encoder takes an image for: every class with its probability, the likeliest first."""
        path = f"/v1/encoders/{part(encoder_id)}/classify"
        try:
            content = image.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot read {image}: {error.strerror}") from error
        answer = self._send("POST", path, files={"image": (image.name, content)}, repeat=True)
        return cast(list[Probability], answer["probabilities"])

    def picture(self, url: str) -> bytes:
        """The bytes of a sample's picture, by the `url` the service gave for it."""
        return self._respond("GET", url, repeat=True).content

    # Generators

    def train_generator(self, recipe: Mapping[str, Any], *, idempotency_key: str | None = None) -> Generator:
        """Queue the training of a generator: `name`, `dataset`, and what else a generator's recipe may say.

        Its job is `job_id` of the answer: `wait`, `follow`, `cancel` and `retry` take it. Sending the same
        `idempotency_key` again gives the same generator.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return cast(Generator, self._send("POST", "/v1/generators", json=dict(recipe), headers=headers, repeat=True))

    def generators(self) -> Iterator[GeneratorSummary]:
        """Generators, newest first."""
        return cast(Iterator[GeneratorSummary], self._pages("/v1/generators"))

    def generator(self, generator_id: str) -> Generator:
        return cast(Generator, self._send("GET", f"/v1/generators/{part(generator_id)}"))

    def download_generator(
        self, generator_id: str, folder: Path, on_bytes: Callable[[File, int], None] = lambda file, size: None
    ) -> list[Path]:
        """Bring a trained generator's pipeline directory into `folder`; goes on where an earlier try stopped.

        Raises:
            Conflict: it is not trained yet.
        """
        generator = self.generator(generator_id)
        if not generator["files"]:
            detail = f"{generator_id} has no files: it is {generator['status']}"
            raise Conflict(409, {"title": "Conflict", "code": "conflict", "detail": detail})
        owner = f"/v1/generators/{part(generator_id)}"
        return [self._download_file(owner, file, folder, on_bytes) for file in generator["files"]]

    def delete_generator(self, generator_id: str) -> None:
        """Delete a generator and the job that trained it; what was made with it stays."""
        self._respond("DELETE", f"/v1/generators/{part(generator_id)}")

    # Data sets of real photos

    def datasets(self) -> Iterator[dict[str, Any]]:
        return self._pages("/v1/datasets")

    def dataset(self, dataset_id: str) -> dict[str, Any]:
        return self._send("GET", f"/v1/datasets/{part(dataset_id)}")

    def add_dataset(
        self, source: Path, name: str | None = None, on_bytes: Callable[[int, int], None] = lambda sent, size: None
    ) -> dict[str, Any]:
        """Upload real photos: a zip or folder with a sub-folder per class, or a parquet file.

        Args:
            on_bytes: told bytes sent and bytes in all.
        """
        with packed(source) as archive, archive.open("rb") as file:
            size = archive.stat().st_size
            reader = CountingReader(file, lambda sent: on_bytes(sent, size))
            kind = CONTENT_TYPES[archive.suffix.lower()]
            files: dict[str, Any] = {"file": (archive.name, reader, kind)}
            if names := class_names_beside(source):
                files["classes"] = (names.name, names.read_bytes(), "text/tab-separated-values")
            data = {"name": name or source.resolve().stem}
            return self._send("POST", "/v1/datasets", files=files, data=data, timeout=UPLOAD_TIMEOUT)

    def delete_dataset(self, dataset_id: str) -> None:
        self._respond("DELETE", f"/v1/datasets/{part(dataset_id)}")

    # Catalogue

    def catalogue(self, kind: str) -> list[dict[str, Any]]:
        """What may be asked for: kind is `teachers`, `students`, `generators` or `losses`."""
        return list(self._pages(f"/v1/catalogue/{part(kind)}"))


def _job_body(recipe: Mapping[str, Any], name: str | None, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"recipe": dict(recipe)}
    return body | ({"name": name} if name else {}) | ({"metadata": dict(metadata)} if metadata else {})
