"""Photos in parquet files, as Hugging Face ``datasets`` writes them: ``image`` = struct(bytes, path), ``label``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distillation.errors import DatasetError
from distillation.photo_archives import unique_classes
from distillation.photo_files import Photo, PhotoSource

MAX_ROW_GROUP_BYTES = 2 * 2**30
READ_ROWS = 2
"""More would keep as many photos in memory, of some megabytes each, and be no faster."""
CLASSES_FILE = "classes.tsv"
UNNAMED_HINT = (
    f"upload a zip holding the parquet files and {CLASSES_FILE} (tab-separated columns 'label' and 'names'), "
    "or write the class names into a string column 'name', or into the Hugging Face schema metadata"
)


def read_classes_file(path: Path) -> dict[int, str]:
    """``classes.tsv``: label -> names (comma-separated synonyms, the usual one first)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(int(row["label"]), row["names"].strip()) for row in csv.DictReader(file, delimiter="\t")]
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise DatasetError(
            f"{CLASSES_FILE} cannot be read: {error!r}", "give tab-separated columns named 'label' and 'names'"
        ) from error
    names = dict(rows)
    if len(names) != len(rows) or not all(names.values()):
        raise DatasetError(f"{CLASSES_FILE} names a label twice or leaves a name empty", "give one row for each label")
    return names


def _metadata_names(schema: pa.Schema) -> dict[int, str]:
    """Class names that ``datasets`` keeps in the schema metadata; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return {}
    values = names.values() if isinstance(names, dict) else names
    return dict(enumerate(str(name) for name in values))


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path.name} is not a parquet file: {error}", "upload the file again") from error
    for index in range(file.metadata.num_row_groups):
        if file.metadata.row_group(index).total_byte_size > MAX_ROW_GROUP_BYTES:
            raise DatasetError(f"{path.name}: a row group is larger than 2 GiB", "write smaller row groups")
    if "image" not in file.schema_arrow.names:
        columns = ", ".join(file.schema_arrow.names[:10])
        raise DatasetError(
            f"{path.name} has no column 'image' (it has: {columns})",
            "the layout is image = struct(bytes, path), with an optional 'label' or 'name'",
        )
    kind = file.schema_arrow.field("image").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and not (
        pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    ):
        raise DatasetError(f"{path.name}: column 'image' is {kind}", "it must be struct(bytes, path) or binary")
    return file


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _label_column(schema: pa.Schema) -> str:
    """The column that says the class: ``label``, else a text column ``name``; empty for unlabelled photos."""
    if "label" in schema.names:
        return "label"
    return "name" if "name" in schema.names and _is_text(schema.field("name").type) else ""


def _class_names(
    files: list[pq.ParquetFile], column: str, classes_file: Path | None
) -> Mapping[int, str] | Mapping[str, str]:
    """What each value of the label column stands for."""
    schema = files[0].schema_arrow
    if _is_text(schema.field(column).type):
        values: set[str] = set()
        for file in files:
            for batch in file.iter_batches(batch_size=8192, columns=[column]):
                values.update(str(v).strip() for v in batch.column(0).unique().to_pylist() if v is not None)
        return {value: value for value in sorted(values) if value}
    if not pa.types.is_integer(schema.field(column).type):
        raise DatasetError(f"column '{column}' is {schema.field(column).type}", "labels are integers or strings")
    if classes_file is not None:
        return read_classes_file(classes_file)
    if names := _metadata_names(schema):
        return names
    if "name" in schema.names and _is_text(schema.field("name").type):
        named: dict[int, str] = {}
        for file in files:
            for batch in file.iter_batches(batch_size=8192, columns=[column, "name"]):
                for row in batch.to_pylist():
                    if row[column] is not None and row["name"]:
                        named[row[column]] = str(row["name"]).strip()
        return dict(sorted(named.items()))
    raise DatasetError("the parquet's labels are numbers and nothing says what they mean", UNNAMED_HINT)


def parquet_source(paths: list[Path], classes_file: Path | None) -> PhotoSource:
    """Photos of parquet files with one schema, a few rows in memory at a time.

    Raises:
        DatasetError: a file is not parquet, has no ``image`` column, or its labels have no names.
    """
    files = [_open(path) for path in sorted(paths)]
    schema = files[0].schema_arrow
    column = _label_column(schema)
    if any(_label_column(file.schema_arrow) != column for file in files):
        raise DatasetError("the parquet files do not have the same columns", "upload files of one dataset")
    try:
        meaning = _class_names(files, column, classes_file) if column else {}
    except pa.ArrowException as error:
        raise DatasetError(f"the parquet cannot be read: {error}", "upload the file again") from error
    classes, positions = unique_classes(list(meaning.values()))
    index: dict[int | str, int] = dict(zip(meaning, positions, strict=True))
    columns = ["image", column] if column else ["image"]

    def photos() -> Iterator[Photo]:
        row_number = 0
        for path, file in zip(sorted(paths), files, strict=True):
            try:
                for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns, use_threads=False):
                    for row in batch.to_pylist():
                        yield _photo(row, column, index, f"{path.name} row {row_number}")
                        row_number += 1
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(f"{path.name} breaks off: {error}", "upload the file again") from error

    return PhotoSource(classes, photos)


def _photo(row: dict[str, object], column: str, index: dict[int | str, int], name: str) -> Photo:
    image = row["image"]
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(image, dict) and isinstance(image.get("path"), str):
        name = f"{name} ({''.join(c for c in image['path'] if c.isprintable())[:200]})"
    if not isinstance(content, bytes):
        return Photo(name, -1, b"", "no image bytes in the row")
    value = row.get(column) if column else None
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "" or (isinstance(value, int) and value < 0):
        return Photo(name, -1, content)
    if not isinstance(value, int | str) or value not in index:
        return Photo(name, -1, b"", f"label {value} has no name")
    return Photo(name, index[value], content)
