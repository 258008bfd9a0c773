"""The recipe's ``data`` section: the generator, the prompts, the filter. Torch-free."""

from __future__ import annotations

import string
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from distillation.recipe_fields import Location, Section, is_local, is_trained, located


class Generator(Section):
    """Any diffusers text-to-image pipeline."""

    model: Location = Field(
        "starter",
        description="`starter`, a hub id (`org/name`), a local pipeline directory, or the id of a generator trained by "
        "the service (`gen_...`).",
    )
    revision: str | None = Field(None, description="Commit of a hub pipeline; required for hub ids.")
    lora: Location | None = Field(None, description="A LoRA to load into the pipeline (hub id or directory), e.g. LCM.")
    decoder: Location | None = Field(
        None,
        description="A tiny decoder (AutoencoderTiny: `madebyollin/taesd@COMMIT`, or a directory) in place of the "
        "pipeline's own. With few steps decoding is most of the work. What it costs students: `docs/performance.md`.",
    )
    steps: int = Field(8, ge=1, le=200, description="Sampling steps; `starter` and trained generators draw in one.")
    guidance: float = Field(
        3.0,
        ge=0,
        le=30,
        description="Classifier-free guidance scale; 1 or less switches it off. Few-step models (LCM, Turbo) want 0.",
    )
    size: int | None = Field(
        None, ge=32, le=2048, multiple_of=8, description="Image side in pixels (default: the pipeline's own)."
    )
    batch_size: int = Field(32, ge=1, le=1024, description="Images sampled together; halved when memory runs out.")
    negative_prompt: str = Field("", description="What the images should not show.")
    licence: str = Field("", description="The weights' licence, repeated on the model card.")

    @model_validator(mode="before")
    @classmethod
    def _one_step(cls, given: Any) -> Any:
        if isinstance(given, dict) and draws_in_one_step(given.get("model", "starter")):
            return {"steps": 1, "guidance": 0.0, **given}
        return given

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not (draws_in_one_step(self.model) or is_local(self.model) or self.revision):
            message = "a hub pipeline needs `revision`, the commit to pin (a directory starts with / or .)"
            raise located(("revision",), message)
        if self.decoder and not (is_local(self.decoder) or "@" in self.decoder):
            raise located(("decoder",), "a hub decoder needs its commit: org/name@commit")
        if draws_in_one_step(self.model) and (self.steps > 1 or self.guidance > 1):
            raise ValueError(f"{self.model} draws in one step without guidance: leave `steps`, `guidance` out")
        return self


def draws_in_one_step(model: Any) -> bool:
    """Whether it is the starter generator or one that a service has trained on photos."""
    return model == "starter" or (isinstance(model, str) and is_trained(model))


class Language(Section):
    """A language model that fills in the prompts' contextual dimensions.

    An endpoint's key does not belong in a recipe: put it into `~/.netrc` of the user that the workers run as, as the
    password of the endpoint's host: `machine HOST login any password KEY`.
    """

    kind: Literal["openai", "transformers"] = Field(description="A chat endpoint, or a local transformers model.")
    model: Location = Field(description="The model's name at the endpoint, or its directory or hub id.")
    base_url: str = Field("", description="The endpoint's base URL (`openai` only), e.g. http://localhost:8000/v1.")
    temperature: float = Field(0.7, ge=0, le=2)

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.kind == "openai" and not self.base_url:
            raise located(("base_url",), "a chat endpoint needs its address, e.g. http://localhost:8000/v1")
        return self


class Prompts(Section):
    """How the images are described.

    Options of the contextual dimensions are combined by pairwise covering design: every pair of options of two
    dimensions occurs in some prompt (paper, section 3; allpairspy).
    """

    template: str = Field(
        "a photo of a {name}, {context}", description="`{name}`, `{superclass}`, `{description}` and `{context}`."
    )
    dimensions: dict[str, tuple[str, ...]] = Field(
        {
            "location": ("outdoors", "indoors", "on a table", "in a field", "in the street"),
            "daytime": ("in daylight", "at night", "in the evening", "under bright light"),
            "camera angle": ("seen from the side", "seen from above", "close-up", "from afar"),
        },
        description="Contextual dimensions and their options; add a domain-dependent one. Empty: no context.",
    )
    options: int = Field(5, ge=2, le=30, description="Options asked of the language model for each dimension.")
    language_model: Language | None = Field(None, description="Asked for the options instead of `dimensions`' own.")
    explicit: dict[str, tuple[str, ...]] | None = Field(
        None, description="Prompts of each class, written by hand; replaces everything above."
    )

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: str) -> str:
        fields = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
        unknown = fields - {"name", "superclass", "description", "context"}
        if unknown or "name" not in fields:
            raise ValueError("the template needs {name} and may use {superclass}, {description} and {context} only")
        return value

    @field_validator("dimensions")
    @classmethod
    def _check_dimensions(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, options in value.items():
            if len(set(options)) != len(options) or not options:
                raise ValueError(f"dimension '{name}' needs at least one option and no option twice")
        return value


class Filter(Section):
    """Which images are kept. A dropped image is made again with a new seed, at most `max_attempts` times."""

    teacher_agrees: bool = Field(True, description="Keep an image only if the teacher's argmax is the intended class.")
    near_constant: bool = Field(True, description="Drop near-constant and blackened images.")
    max_attempts: int = Field(4, ge=1, le=50, description="Tries for one image.")
    max_dropped: float = Field(
        0.9, gt=0, le=1, description="Share of all sampled images that may be dropped before the job fails."
    )


class Data(Section):
    """The synthetic images."""

    generator: Generator = Generator()  # type: ignore[call-arg]
    images_per_class: int = Field(
        150,
        ge=2,
        le=1_000_000,
        description="Images wanted of each class. One that is refused `filter.max_attempts` times is left out, with a "
        "warning; a class that loses more than half of its images in a task fails the job.",
    )
    holdout: float = Field(0.1, gt=0, lt=1, description="Share held out of training, for the synthetic score.")
    prompts: Prompts = Prompts()  # type: ignore[call-arg]
    filter: Filter = Filter()  # type: ignore[call-arg]
    shard_size: int = Field(1024, ge=16, le=65536, description="Images made by one task.")
    seed: int = Field(0, ge=0, lt=2**31)
