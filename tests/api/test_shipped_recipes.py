"""What the service says of the recipes for real use before it runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillation.recipe import load_recipe
from tests.api.conftest import Service

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "student", "images", "steps"),
    [("popp2024", "tiny_vit_11m_224", 37 * 600, 7492), ("default", "hgnetv2_b0", 12 * 1000, 4219)],
)
def test_dry_run(
    service: Service,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    student: str,
    images: int,
    steps: int,
) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml").model_dump(mode="json", exclude_unset=True)
    if "agnostic" in recipe["training"]:
        recipe["training"]["agnostic"]["source"] = str(tmp_path)  # where its photos would be
    answer = service.http.post("/v1/jobs?dry_run=true", json={"recipe": recipe})
    assert answer.status_code == 200, answer.text
    plan, estimate = answer.json(), answer.json()["estimate"]
    with capsys.disabled():
        told = f"{estimate['minutes']:,.0f} minutes, {estimate['bytes'] / 1e9:.1f} GB ({estimate['basis']})"
        print(f"\nrecipes/{name}.yaml: {images:,} images, {steps:,} steps, {told}")
    assert (plan["student"]["architecture"], plan["student"]["image_size"]) == (student, 224)
    assert plan["teacher"]["known"] and plan["warnings"] == []
    assert (estimate["images"], estimate["steps"]) == (images, steps)
    assert estimate["minutes"] > 60 and "typical rates" in estimate["basis"], "a GPU's, and nothing measured here"
    stages = {task["stage"] for task in plan["tasks"]}
    assert ("agnostic" in stages) == ("agnostic" in recipe["training"])
