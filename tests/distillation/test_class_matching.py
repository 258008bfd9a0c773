"""Dataset classes against the domain's."""

from __future__ import annotations

import pytest

from distillation.class_matching import match_classes
from distillation.errors import DatasetError
from distillation.recipe import Domain


def domain(*classes: object) -> Domain:
    return Domain.model_validate({"name": "test", "classes": list(classes)})


def test_names_match_without_case_and_by_synonyms_on_either_side() -> None:
    wanted = domain("Goldfish", {"name": "ladybird", "synonyms": ["ladybug"]}, "school bus")
    mapping, warnings = match_classes(["Carassius auratus, goldfish", "LADYBUG", "school_bus", "zebra", "bus"], wanted)
    assert mapping == {0: 0, 1: 1, 2: 2} and warnings == []


def test_two_dataset_classes_may_be_one_class_of_the_domain() -> None:
    mapping, _ = match_classes(
        ["tabby", "Siamese cat", "dog"], domain({"name": "cat", "synonyms": ["tabby", "siamese cat"]}, "dog")
    )
    assert mapping == {0: 0, 1: 0, 2: 1}


def test_a_domain_class_without_photos_is_a_warning() -> None:
    mapping, warnings = match_classes(["cat"], domain("cat", "dog"))
    assert mapping == {0: 0} and len(warnings) == 1 and "dog" in warnings[0]


def test_an_ambiguous_dataset_class_is_counted_once_and_said() -> None:
    mapping, warnings = match_classes(["crane, bird"], domain("bird", "crane"))
    assert mapping == {0: 1} and "'crane', 'bird'" in warnings[0]


def test_no_common_class_is_an_error_that_lists_the_datasets() -> None:
    with pytest.raises(DatasetError, match="'car'") as caught:
        match_classes(["car", "lorry"], domain("cat", "dog"))
    assert caught.value.code == "bad_dataset" and caught.value.hint
