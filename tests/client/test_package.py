"""The client stands alone: it may be installed where nothing else of this project is."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import stillroom.cli

PACKAGE = Path(stillroom.cli.__file__).parent
ALLOWED = {"httpx", "rich", "typer", "yaml", "stillroom"}
DISTRIBUTIONS = {"httpx", "rich", "typer", "pyyaml"}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            found.add(str(node.module).partition(".")[0])
    return found


def test_imports_only_what_it_declares() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        strange = imported(path) - ALLOWED - sys.stdlib_module_names
        assert not strange, f"{path.name} imports {strange}"


def test_declares_what_it_imports() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {item.partition(">")[0] for item in project["dependencies"]} == DISTRIBUTIONS
    assert project["scripts"] == {"stillroom": "stillroom.cli:main"}


def test_package_init_is_empty() -> None:
    assert (PACKAGE / "__init__.py").read_text(encoding="utf-8") == ""
