"""What a stage's child process and its supervisor say to each other: one request file, JSON lines on stdout.

Torch-free: the supervisor imports it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TextIO

from typing_extensions import TypeVar

from distillation.generator_recipe import GeneratorRecipe
from distillation.recipe import Recipe

RecipeType = TypeVar("RecipeType", Recipe, GeneratorRecipe, default=Recipe)

INTERRUPTED = 75
"""Exit status of a child that stopped on SIGTERM with its work saved (EX_TEMPFAIL)."""

PROGRESS_SECONDS = 0.5
RECORDED_PACKAGES = ("torch", "open_clip_torch", "timm", "diffusers", "transformers", "onnxruntime", "numpy")


class StageError(Exception):
    """A stage failed in a way its user can understand.

    Args:
        code: machine-readable reason, e.g. ``weights_missing``.
        message: what happened.
        hint: what to do.
        field: the recipe's field at fault, e.g. ``teacher.pretrained``.
    """

    def __init__(self, code: str, message: str, hint: str = "", field: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.field = code, message, hint, field


class Interrupted(Exception):
    """The stage was asked to stop and has saved its work."""


@dataclass(frozen=True)
class Request(Generic[RecipeType]):
    """What a stage is asked to do.

    Args:
        inputs: folders made by earlier stages, and by name those of what the recipe names: ``dataset``,
            ``agnostic_source``, ``generator``, ``photos``.
        out: the folder to write; may hold the unfinished work of an earlier attempt.
    """

    stage: str
    shard: int
    key: str
    recipe: RecipeType
    inputs: dict[str, list[Path]]
    out: Path

    @staticmethod
    def read(path: Path) -> Request[Any]:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe = GeneratorRecipe if content["stage"] == "generator" else Recipe
        return Request(
            stage=content["stage"],
            shard=content["shard"],
            key=content["key"],
            recipe=recipe.model_validate(content["recipe"]),
            inputs={name: [Path(p) for p in paths] for name, paths in content["inputs"].items()},
            out=Path(content["out"]),
        )

    def write(self, path: Path) -> None:
        content = {
            "stage": self.stage,
            "shard": self.shard,
            "key": self.key,
            "recipe": self.recipe.model_dump(mode="json"),
            "inputs": {name: [str(p) for p in paths] for name, paths in self.inputs.items()},
            "out": str(self.out),
        }
        path.write_text(json.dumps(content), encoding="utf-8")


@dataclass
class Reporter:
    """Writes the child's JSON lines; progress is throttled, the last of a run always gets out.

    Args:
        leads: False in all but one of several processes that train together: they write errors only, and no files.
    """

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    stop_requested: bool = False
    leads: bool = True
    _last: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _first_done: int | None = None

    def progress(self, done: int, total: int, unit: str, rate: float | None = None, **metrics: float) -> None:
        """Say how far the stage is; ``rate`` in units per second is measured here unless given."""
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._began = done, now
        if now - self._last < PROGRESS_SECONDS and done < total:
            return
        self._last = now
        if rate is None and now > self._began:
            rate = (done - self._first_done) / (now - self._began)
        self._write(event="progress", done=done, total=total, unit=unit, rate=round(rate or 0.0, 2), metrics=metrics)

    def checkpoint(self, step: int, path: str, **metrics: float) -> None:
        """Say that ``path`` (relative to the output folder) now holds a whole checkpoint."""
        self._write(event="checkpoint", step=step, path=path, metrics=metrics)

    def warning(self, code: str, message: str) -> None:
        self._write(event="warning", code=code, message=message)

    def error(self, error: StageError) -> None:
        self._write(event="error", code=error.code, message=error.message, hint=error.hint, field=error.field)

    def done(self, summary: dict[str, Any]) -> None:
        self._write(event="done", summary=summary)

    def _write(self, **content: Any) -> None:
        if self.leads or content["event"] == "error":
            print(json.dumps(content), file=self.stream, flush=True)


def stop_on_sigterm(report: Reporter) -> None:
    """Let SIGTERM set ``report.stop_requested``; stages look at it between batches."""

    def handler(_signal: int, _frame: object) -> None:
        report.stop_requested = True

    signal.signal(signal.SIGTERM, handler)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide results."""
    found = {"python": sys.version.split()[0]}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """The most memory this process has had resident, in bytes, mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kibibytes


def write_manifest(request: Request[Any], summary: dict[str, Any], seconds: float) -> None:
    """List every output with hash and size; its presence says that the stage is done."""
    files = [
        {"name": path.relative_to(request.out).as_posix(), "sha256": file_sha256(path), "size": path.stat().st_size}
        for path in sorted(request.out.rglob("*"))
        if path.is_file()
        and path.name not in {"manifest.json", "request.json"}
        and path.relative_to(request.out).parts[0] != "checkpoints"
    ]
    content = {
        "stage": request.stage,
        "shard": request.shard,
        "key": request.key,
        "seconds": round(seconds, 3),
        "peak_memory": peak_memory(),
        "versions": versions(),
        "seed": request.recipe.seed,
        "files": files,
        "summary": summary,
    }
    write_atomically(request.out / "manifest.json", json.dumps(content, indent=1) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether a stage is done in ``folder`` and its files are those of the manifest, by size and sha256."""
    if not (folder / "manifest.json").is_file():
        return False
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    paths = [folder / item["name"] for item in listed]
    return all(
        path.is_file() and path.stat().st_size == item["size"] for path, item in zip(paths, listed, strict=True)
    ) and all(file_sha256(path) == item["sha256"] for path, item in zip(paths, listed, strict=True))


def write_atomically(path: Path, content: str) -> None:
    """Write a text file so that readers see the old one or the whole new one."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


Stage = Callable[[Request[Any], Reporter], dict[str, Any]]
