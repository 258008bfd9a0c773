"""Encoders: look up, classify."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from api.archives import FileRead
from api.encoders.schemas import Classification, EncoderRead, EncoderSummary, Probability
from api.errors import Problem, field_error, not_found
from api.files import require_blobs
from api.pages import Page, cut
from api.processes import Helper
from state.blobs import BlobStore
from state.database import read_scope
from state.tables import Encoder, EncoderFile


def list_encoders(engine: Engine, *, after: str | None, limit: int) -> Page[EncoderSummary]:
    """Newest first."""
    sizes = select(EncoderFile.encoder_id, func.sum(EncoderFile.size).label("size")).group_by(EncoderFile.encoder_id)
    total = sizes.subquery()
    query = select(Encoder, total.c.size).outerjoin(total, total.c.encoder_id == Encoder.id)
    if after is not None:
        query = query.where(Encoder.id < after)
    with read_scope(engine) as session:
        rows, more = cut(session.execute(query.order_by(Encoder.id.desc()).limit(limit + 1)).all(), limit)
        data = [EncoderSummary(**_summary(encoder, int(size or 0))) for encoder, size in rows]
    return Page(data=data, next=data[-1].id if more else None)


def read_encoder(engine: Engine, encoder_id: str) -> EncoderRead:
    with read_scope(engine) as session:
        encoder = session.get(Encoder, encoder_id)
        if encoder is None:
            raise not_found("encoder", encoder_id)
        files = list_files(session, encoder_id)
    return EncoderRead(
        **_summary(encoder, sum(file.size for file in files)),
        report=encoder.report,
        files=files,
        archive_url=f"/v1/encoders/{encoder_id}/archive",
    )


def list_files(session: Session, encoder_id: str) -> list[FileRead]:
    query = select(EncoderFile).where(EncoderFile.encoder_id == encoder_id).order_by(EncoderFile.name)
    return [
        FileRead(
            name=file.name,
            sha256=file.sha256,
            size=file.size,
            content_type=file.content_type,
            url=f"/v1/encoders/{encoder_id}/files/{file.name}",
        )
        for file in session.scalars(query)
    ]


def read_file(engine: Engine, encoder_id: str, name: str) -> EncoderFile:
    """One file's row; names are looked up, never joined to a path."""
    with read_scope(engine) as session:
        file = session.get(EncoderFile, (encoder_id, name))
        if file is None:
            what = "file" if session.get(Encoder, encoder_id) else "encoder"
            raise not_found(what, name if what == "file" else encoder_id)
        return file


def classify(
    engine: Engine, blobs: BlobStore, blobs_url: str, helper: Helper, encoder_id: str, image: Path, *, top: int | None
) -> Classification:
    """Probabilities of an image's classes.

    Args:
        image: the uploaded file.

    Raises:
        Problem: 404 no such encoder, 409 exported without ONNX, 410 its files are gone, 422 not a usable image.
    """
    # With numpy and Pillow, which the API's start can do without.
    from api.encoders.classifiers import LABELS, MODEL, PREPROCESS
    from api.encoders.classifiers import classify as run_classifier
    from api.encoders.images import BadImage

    with read_scope(engine) as session:
        if session.get(Encoder, encoder_id) is None:
            raise not_found("encoder", encoder_id)
        listed = list_files(session, encoder_id)
    files = {file.name: file.sha256 for file in listed if file.name in (MODEL, LABELS, PREPROCESS)}
    if len(files) < 3:
        detail = "this encoder has no classifier.onnx: its job was submitted with exports.onnx: false"
        raise Problem(409, "conflict", detail)
    require_blobs(engine, blobs, files)
    began = time.perf_counter()
    try:
        ranked = helper.run(run_classifier, image, blobs_url, files)
    except BadImage as error:
        raise _bad_image(str(error)) from error
    except MemoryError as error:
        raise _bad_image("it needed more memory than this server has") from error
    return Classification(
        encoder_id=encoder_id,
        model=MODEL,
        probabilities=[Probability(label=label, probability=value) for label, value in ranked[:top]],
        milliseconds=round((time.perf_counter() - began) * 1000, 2),
    )


def _bad_image(reason: str) -> Problem:
    message = f"the image cannot be used: {reason}"
    return Problem(422, "bad_image", message, [field_error("/image", message, "bad_image")])


def _summary(encoder: Encoder, size: int) -> dict[str, Any]:
    return {
        "id": encoder.id,
        "job_id": encoder.job_id,
        "name": encoder.name,
        "created_at": encoder.created_at,
        "domain": encoder.report.get("domain", encoder.name),
        "classes": encoder.report.get("classes", 0),
        "student": encoder.report.get("student", {}),
        "size": size,
    }
