"""``python -m models.measure NAME@SIZE ...``: what a timm architecture costs as a student, for the catalogue."""

from __future__ import annotations

import sys
from typing import NamedTuple

from models.students import build_student, count_macs, count_params, projection_layer, student_config


class Cost(NamedTuple):
    """A backbone's cost without the projection, which depends on the teacher's embedding width."""

    params: int
    features: int
    bias: bool
    macs: int


def measure(architecture: str, image_size: int) -> Cost:
    """Parameters, width of the pooled features, whether the projection has a bias, multiply-accumulates of an image."""
    config = student_config(architecture, image_size, {"embed_dim": 1})
    student = build_student(config)
    projection = projection_layer(student)
    width, bias = projection.in_features, projection.bias is not None
    return Cost(count_params(student) - width - bias, width, bias, count_macs(student, image_size) - width)


def main(names: list[str]) -> None:
    for name in names:
        architecture, size = name.split("@")
        cost = measure(architecture, int(size))
        print(
            f"{architecture:28} {size:>4} px  params {cost.params:>10,}  features {cost.features:>5}"
            f"  bias {cost.bias!s:5}  macs {cost.macs:>13,}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
