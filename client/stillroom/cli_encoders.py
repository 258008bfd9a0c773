"""Commands about encoders, and the catalogue they are chosen from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.progress import TaskID
from rich.text import Text

from stillroom.cli_session import JsonFlag, Session, open_session
from stillroom.progress import transfer_display
from stillroom.rendering import encoders_table, megabytes, probabilities_table, rows_table, table
from stillroom.schemas import File

EncoderId = Annotated[
    str, typer.Argument(metavar="ENCODER", help="Id of the encoder, enc_..., or of its job.", show_default=False)
]


class Kind(StrEnum):
    teachers = "teachers"
    students = "students"
    generators = "generators"
    losses = "losses"


def encoders(
    context: typer.Context,
    encoder: Annotated[
        str | None,
        typer.Argument(metavar="ENCODER", help="Show this one, by its own id or its job's.", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List encoders, newest first, or show one with its files."""
    with open_session(context, as_json) as session:
        if encoder is not None:
            found = session.service.encoder(session.encoder_id(encoder))
            session.show(found, lambda: Group(encoders_table([found]), files_table(found["files"])))
            return
        rows = list(session.service.encoders())
        session.show(rows, lambda: encoders_table(rows))


def download(
    context: typer.Context,
    encoder: EncoderId,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="Only this file, for example image_encoder.onnx.", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write to. Default: one named like the encoder's id."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Download an encoder, whole or one file. Run it again after a break and it goes on where it stopped."""
    with open_session(context, as_json) as session:
        identity = session.encoder_id(encoder)
        folder = to or Path(identity)
        paths = download_files(session, identity, folder, file)
        names = [str(path) for path in paths]
        session.show({"encoder_id": identity, "files": names}, lambda: Text("\n".join(names)))


def classify(
    context: typer.Context,
    encoder: EncoderId,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Photos: JPEG, PNG or WebP.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many classes.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Ask the service what an encoder sees in images. JSON always holds every class."""
    with open_session(context, as_json) as session:
        identity = session.encoder_id(encoder)
        answers = [(image, session.service.classify(identity, image)) for image in images]
        session.show(
            [{"image": str(image), "probabilities": found} for image, found in answers],
            lambda: Group(*(probabilities_table(found[:top], title=str(image)) for image, found in answers)),
        )


def catalogue(
    context: typer.Context,
    kind: Annotated[
        Kind | None,
        typer.Argument(
            metavar="KIND", help="teachers, students, generators or losses; default all.", show_default=False
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what recipes can ask for: teachers, students, generators and losses."""
    with open_session(context, as_json) as session:
        parts = {part.value: session.service.catalogue(part) for part in ([kind] if kind else Kind)}
        session.show(parts, lambda: Group(*(rows_table(rows, title=name) for name, rows in parts.items())))


def download_files(session: Session, encoder_id: str, folder: Path, name: str | None = None) -> list[Path]:
    return with_bars(session, lambda on_bytes: session.service.download(encoder_id, folder, name, on_bytes))


def with_bars(session: Session, download: Callable[[Callable[[File, int], None]], list[Path]]) -> list[Path]:
    """Run a download with a bar for each file; it tells how many bytes of which file are there."""
    with transfer_display(session.err) as bars:
        rows: dict[str, TaskID] = {}

        def on_bytes(file: File, size: int) -> None:
            if file["name"] not in rows:
                rows[file["name"]] = bars.add_task(file["name"], total=file["size"])
            bars.update(rows[file["name"]], completed=size)

        return download(on_bytes)


def files_table(files: Iterable[File]) -> Group:
    made = table("file", "size", "sha256", right=("size",))
    for file in files:
        made.add_row(Text(file["name"]), megabytes(file["size"]), file["sha256"])
    return Group(Text(""), made)
