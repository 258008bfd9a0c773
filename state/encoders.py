"""From the export's output to an encoder that can be downloaded."""

from __future__ import annotations

from sqlalchemy.orm import Session

from state.database import database_now
from state.ids import new_id
from state.tables import Encoder, EncoderFile, Job, Result

FOLDER = "encoder/"
"""Where the export stage puts the files of the encoder."""

CONTENT_TYPES = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}


def make_encoder(session: Session, job: Job, result: Result) -> Encoder:
    """Write the rows of a finished job's encoder; file names are relative to the encoder's folder."""
    encoder = Encoder(
        id=new_id("enc"), job_id=job.id, name=job.name, created_at=database_now(session), report=result.report or {}
    )
    session.add(encoder)
    session.flush()
    for path, entry in sorted(result.files.items()):
        if path.startswith(FOLDER):
            name = path.removeprefix(FOLDER)
            session.add(
                EncoderFile(
                    encoder_id=encoder.id,
                    name=name,
                    sha256=entry["sha256"],
                    size=entry["size"],
                    content_type=content_type(name),
                )
            )
    return encoder


def content_type(name: str) -> str:
    """The media type of a file of an encoder, by its ending."""
    ending = "." + name.rsplit(".", 1)[-1]
    return CONTENT_TYPES.get(ending, "application/octet-stream")
