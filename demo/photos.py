"""A few real photos of the domain, out of the file or folder that the user gave."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from distillation.photo_archives import folder_source, open_zip, zip_source
from distillation.photo_files import PhotoSource
from distillation.photo_tables import CLASSES_FILE, parquet_source


def some_photos(source: Path, classes: Sequence[str], folder: Path) -> list[tuple[Path, str]]:
    """Write one photo of each class into `folder`; returns files and their classes.

    A data set's class may be a list of synonyms ('limousine, limo').
    """
    wanted = {name.casefold(): name for name in classes}
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    with ExitStack() as stack:
        photos = _open(source, stack)
        names = [[part.strip().casefold() for part in name.split(",")] for name in photos.classes]
        domain = [next((wanted[part] for part in parts if part in wanted), None) for parts in names]
        for photo in photos.photos():
            name = domain[photo.label] if photo.label >= 0 else None
            if name is None or name in found or not is_image(photo.content):
                continue
            found[name] = folder / f"{name.replace(' ', '-').replace('/', '-')}.jpg"
            found[name].write_bytes(photo.content)
            if len(found) == len(wanted):
                break
    return [(found[name], name) for name in classes if name in found]


def is_image(content: bytes) -> bool:
    """A zip may hold other things, and a data set broken photos."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _open(source: Path, stack: ExitStack) -> PhotoSource:
    if source.suffix.lower() == ".parquet":
        beside = source.parent / CLASSES_FILE
        return parquet_source([source], beside if beside.is_file() else None)
    return folder_source(source) if source.is_dir() else zip_source(stack.enter_context(open_zip(source)))
