"""The files of a trained generator."""

from __future__ import annotations

from api.archives import FileRead
from state.encoders import content_type
from state.tables import Generator


def list_generator_files(generator: Generator) -> list[FileRead]:
    """By name; none until it is trained."""
    return [
        FileRead(
            name=name,
            sha256=entry["sha256"],
            size=entry["size"],
            content_type=content_type(name),
            url=f"/v1/generators/{generator.id}/files/{name}",
        )
        for name, entry in sorted((generator.files or {}).items())
    ]
