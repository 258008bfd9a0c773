"""The folders of a stage: its inputs out of the blob store, its outputs into it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.blobs import BlobStore, Bundle
from state.claims import Claim
from state.errors import error_of
from state.settings import Settings

log = logging.getLogger(__name__)
REPORTING_STAGES = ("evaluate", "export", "generator")
NAMED = {
    "dataset": ("dataset", "evaluation.dataset"),
    "agnostic_source": ("dataset", "training.agnostic.source"),
    "photos": ("dataset", "dataset"),
    "generator": ("generator", "data.generator.model"),
    "base": ("generator", "base"),
}
"""Inputs that a recipe names by an id: what each is, and the recipe's field."""
AGAIN = {
    "dataset": ("bad_dataset", "Upload it again and submit a new job."),
    "generator": ("weights_missing", "Train it again and submit a new job."),
}


class StageFailed(Exception):
    """The stage cannot be done, or not this time.

    Args:
        error: code, message, hint, field.
        retryable: whether another try may do better.
        gone: the bundle that is not in the blob store any more, if that is why.
    """

    def __init__(self, error: dict[str, Any], retryable: bool, gone: str | None = None) -> None:
        super().__init__(error["message"])
        self.error, self.retryable, self.gone = error, retryable, gone


class InputGone(Exception):
    """An earlier stage's output is no longer in the blob store.

    Args:
        bundle: the output's bundle.
    """

    def __init__(self, bundle: str) -> None:
        super().__init__(f"bundle {bundle} is gone from the blob store")
        self.bundle = bundle


@dataclass(frozen=True)
class Output:
    """A finished stage's output, as it was stored."""

    bundle: str
    files: Bundle
    summary: dict[str, Any]
    seconds: float
    report: dict[str, Any] | None


def prepare(claim: Claim, blobs: BlobStore, settings: Settings) -> Path:
    """Make a task's folder ready and return its request file.

    The folder belongs to the task's key, so that a new attempt on this machine goes on where the last one was.

    Raises:
        InputGone: the output of an earlier stage is gone.
        StageFailed: a dataset or generator that the recipe names is gone.
    """
    folder = settings.scratch / claim.key
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for unfinished in (out / "checkpoints").glob(".fresh-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if claim.checkpoint and not (out / "manifest.json").exists():
        path, bundle = claim.checkpoint
        try:
            blobs.fetch_bundle(bundle, out / path)
        except FileNotFoundError as error:
            log.warning("the checkpoint %s of task %d is gone, starting without: %s", path, claim.task_id, error)
    request = {
        "stage": claim.stage,
        "shard": claim.shard,
        "key": claim.key,
        "recipe": claim.recipe,
        "inputs": {
            name: [str(_input(name, bundle, blobs, settings)) for bundle in bundles]
            for name, bundles in claim.inputs.items()
        },
        "out": str(out),
    }
    request_file = folder / "request.json"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    return request_file


def store_checkpoint(folder: Path, path: str, blobs: BlobStore) -> str:
    """Put a checkpoint into the blob store and return its bundle.

    Args:
        folder: the task's folder.
        path: the checkpoint's folder within the output.

    Raises:
        FileNotFoundError: the stage announced what is not there.
    """
    saved = (folder / "out" / path).resolve()
    if not saved.is_dir() or not saved.is_relative_to((folder / "out").resolve()):
        raise FileNotFoundError(f"the announced checkpoint {path!r} does not exist")
    return blobs.put_bundle(saved)


def store_output(claim: Claim, folder: Path, blobs: BlobStore) -> Output:
    """Put what the stage made into the blob store.

    Raises:
        StageFailed: it left no manifest, or files that are not what the manifest says.
    """
    out = folder / "out"
    try:
        manifest = read_json(out / "manifest.json")
        hashes = {item["name"]: item["sha256"] for item in manifest["files"]}
        bundle = blobs.put_bundle(out, [*hashes, "manifest.json"])
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        discard(folder)
        message = f"Stage {claim.stage} said it was done, but its output is not whole: {error}"
        raise StageFailed(error_of("internal", message), retryable=True) from error
    files = blobs.bundle(bundle)
    damaged = sorted(name for name, sha in hashes.items() if files[name]["sha256"] != sha)
    if damaged or manifest["key"] != claim.key:
        discard(folder)
        message = f"Stage {claim.stage} left files that differ from its manifest: {', '.join(damaged[:5]) or 'key'}"
        raise StageFailed(error_of("internal", message), retryable=True)
    report = out / "report.json"
    return Output(
        bundle=bundle,
        files=files,
        summary=manifest["summary"],
        seconds=float(manifest["seconds"]),
        report=read_json(report) if claim.stage in REPORTING_STAGES and report.is_file() else None,
    )


def discard(folder: Path) -> None:
    """Remove a task's folder; its stored outputs are links of their own."""
    shutil.rmtree(folder, ignore_errors=True)


def read_json(path: Path) -> Any:
    """JSON as PostgreSQL takes it: NaN and infinities become null."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)


def _input(name: str, bundle: str | None, blobs: BlobStore, settings: Settings) -> Path:
    if bundle is None:
        raise _gone(name, "has been deleted")
    try:
        folder = blobs.fetch_bundle(bundle, settings.cache / bundle)
    except FileNotFoundError as error:
        if name in NAMED:
            raise _gone(name, "is gone from the blob store", bundle) from error
        raise InputGone(bundle) from error
    os.utime(folder)  # the janitor removes by age
    return folder


def _gone(name: str, how: str, bundle: str | None = None) -> StageFailed:
    what, field = NAMED[name]
    code, hint = AGAIN[what]
    message = f"The {what} that the recipe names in {field} {how}."
    return StageFailed(error_of(code, message, hint, field), retryable=False, gone=bundle)
