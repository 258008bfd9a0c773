"""What the sections of a recipe have in common. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

GENERATOR_ID = re.compile(r"gen_[0-9a-z]{26}")
"""Names a generator that a service has trained."""
LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems there are."""


def is_local(model: str) -> bool:
    """Whether a model's name is a directory on the machine that runs the job: it starts with / or a dot."""
    return model.startswith(("/", "."))


def located(path: tuple[str, ...], message: str) -> ValidationError:
    """An error of a whole section that points at the field to change."""
    kind = PydanticCustomError("value_error", "{message}", {"message": message})
    details = InitErrorDetails(type=kind, loc=path, input=None)
    return ValidationError.from_exception_data("recipe", [details])


def _nameable(value: str) -> str:
    """Refuse a path that no file system can hold: looking for it is an error of its own there, not an answer."""
    if "://" not in value and any(len(part.encode()) > LONGEST_NAME for part in value.split("/")):
        raise ValueError(f"a name in it is longer than {LONGEST_NAME} bytes, which no file can have")
    return value


Location = Annotated[str, AfterValidator(_nameable)]
"""A model's or a dataset's name that may be a path."""


def printable(value: Any) -> Any:
    """Refuse control characters in a text or in the texts it holds: databases and terminals choke on them."""
    if isinstance(value, str):
        if bad := next((one for one in value if ord(one) < 32 and one not in "\n\t"), None):
            raise ValueError(f"it holds the control character {bad!r}; remove it")
    elif isinstance(value, list | tuple):
        for one in value:
            printable(one)
    elif isinstance(value, dict):
        printable([*value, *value.values()])
    return value


def is_trained(model: str) -> bool:
    """Whether a generator's name is the id of one that a service has trained."""
    return GENERATOR_ID.fullmatch(model) is not None


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)

    _printable = field_validator("*")(printable)


def slug(text: str) -> str:
    """A name for files: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "domain"
