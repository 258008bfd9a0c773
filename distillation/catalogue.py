"""Students that a recipe may name by preset or budget, and how a recipe's student is resolved. Torch-free data.

A student's costs are measured by ``python -m models.measure``; a test measures some rows again. Latency and the Pareto
front that the presets are chosen from: ``make bench-students``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from distillation.names import check_architecture
from distillation.recipe import SizePreset, Student
from distillation.teachers import TeacherShape

SMALL_TIER = 128
"""Largest image size, in pixels, of a teacher whose students come from the small tier."""
DEFAULT_PRESET: SizePreset = "s"


@dataclass(frozen=True)
class StudentRow:
    """A timm architecture at one image size.

    Args:
        params: of the backbone, without projection.
        features: width of the pooled features that the projection sees.
        bias: whether the projection is timm's own layer, which has a bias.
        macs: multiply-accumulates of the backbone for one image.
        top1: ImageNet-1k accuracy in per cent that timm reports for pretrained weights (its table
            ``results-imagenet.csv``, August 2026): a hint of capacity. At the row's size, but for ``fastvit_t12`` and
            ``edgenext_small`` (256 pixels) and ``efficientnet_b1`` (240).
    """

    architecture: str
    image_size: int
    params: int
    features: int
    bias: bool
    macs: int
    preset: SizePreset | None = None
    top1: float | None = None
    note: str = ""

    def resolve(self, embed_dim: int) -> Resolved:
        """The row as a student of a teacher with features of width ``embed_dim``; the projection is open_clip's."""
        if not self.bias and self.features < embed_dim:  # two layers, see models.students
            hidden = 2 * embed_dim
            projection, biases = hidden * (self.features + embed_dim), hidden
        else:
            projection, biases = self.features * embed_dim, embed_dim if self.bias else 0
        return Resolved(
            self.architecture,
            self.image_size,
            self.params + projection + biases,
            self.macs + projection,
            self.preset,
        )


class Resolved(NamedTuple):
    """A student that can be built.

    ``params`` and ``macs`` include the projection; they are 0 for an architecture at a size that the catalogue does
    not hold, which only the training process can measure.
    """

    architecture: str
    image_size: int
    params: int
    macs: int
    preset: SizePreset | None


# Both tiers go from weak to strong: a budget takes the last row that fits.
SMALL_STUDENTS = (
    StudentRow("test_efficientnet", 96, 99_196, 256, False, 20_541_632),
    StudentRow("test_byobnet", 96, 199_856, 256, False, 11_127_040),
    StudentRow("test_convnext", 96, 207_128, 64, False, 11_219_328),
    StudentRow("lcnet_035", 96, 363_370, 1280, True, 4_989_512),
    StudentRow("lcnet_050", 96, 599_856, 1280, True, 8_281_728),
    StudentRow("test_resnet", 64, 372_688, 96, False, 16_392_192, "xs"),
    StudentRow("test_resnet", 96, 372_688, 96, False, 36_882_432, "s"),
    StudentRow("starnet_s050", 96, 413_728, 128, False, 16_743_168),
    StudentRow("mobilenetv2_035", 96, 396_128, 1280, False, 10_654_128),
    StudentRow("dla46x_c", 96, 811_440, 256, False, 97_800_192),
    StudentRow("starnet_s100", 96, 882_280, 160, False, 34_065_216),
    StudentRow("dla60x_c", 96, 1_062_832, 256, False, 106_721_280),
    StudentRow("mobilenetv4_conv_small_050", 96, 957_952, 1280, True, 12_157_728, "m"),
    StudentRow("starnet_s150", 96, 1_367_616, 192, False, 41_727_744),
    StudentRow("lcnet_100", 96, 1_672_800, 1280, True, 29_031_680),
    StudentRow("convnext_zepto_rms", 96, 1_898_656, 256, False, 55_448_064),
    StudentRow("mobilenetv4_conv_small", 96, 2_493_024, 1280, True, 34_932_288),
    StudentRow("cs3darknet_s", 96, 2_763_344, 512, False, 100_085_760, "l"),
    StudentRow("convnextv2_atto", 96, 3_387_400, 320, False, 100_471_680),
    StudentRow("hgnetv2_b0", 96, 3_947_550, 2048, True, 60_354_944),
    StudentRow("resnet10t", 96, 4_922_488, 512, False, 201_443_328),
)
FULL_STUDENTS = (
    StudentRow("mobilenetv4_conv_small", 224, 2_493_024, 1280, True, 184_725_568, "xs", 73.8, "fastest on a CPU"),
    StudentRow("shvit_s2", 224, 11_033_176, 448, False, 364_946_896, None, 75.2),
    StudentRow("mobileone_s1", 224, 3_544_192, 1280, False, 828_782_080, None, 75.8),
    StudentRow("levit_128s", 224, 7_005_522, 384, False, 303_892_832, None, 76.5),
    StudentRow("convnextv2_atto", 224, 3_387_400, 320, False, 547_012_480, None, 76.6),
    StudentRow("ghostnetv3_100", 224, 6_848_028, 1280, True, 402_848_320, None, 76.9),
    StudentRow("hgnetv2_b0", 224, 3_947_550, 2048, True, 319_278_464, "s", 77.4, "fast; int8 pays"),
    StudentRow("efficientnet_b0", 224, 4_007_548, 1280, False, 384_534_752, None, 78.6, "int8 does not pay"),
    StudentRow("starnet_s4", 224, 7_225_728, 256, False, 1_049_305_600, None, 78.8),
    StudentRow("hgnetv2_b1", 224, 4_294_158, 2048, True, 487_339_840, None, 78.9, "int8 pays"),
    StudentRow("mobilenetv4_conv_medium", 224, 8_434_512, 1280, True, 826_369_984, None, 79.1),
    StudentRow("efficientvit_b1", 224, 7_501_024, 1600, True, 517_614_592, None, 79.3),
    StudentRow("fastvit_t12", 224, 6_528_704, 1024, False, 1_069_381_632, None, 80.4, "int8 does not pay"),
    StudentRow("efficientnet_b1", 224, 6_513_184, 1280, False, 568_371_680, None, 80.4, "int8 does not pay"),
    StudentRow("repvit_m1_0", 224, 6_403_004, 448, False, 1_107_181_600, None, 80.4),
    StudentRow("tiny_vit_5m_224", 224, 5_071_764, 320, False, 1_254_854_720, None, 80.9, "accurate; slow on a CPU"),
    StudentRow("edgenext_small", 224, 5_281_832, 304, False, 959_275_156, "m", 81.1),
    StudentRow("tiny_vit_11m_224", 224, 10_547_972, 448, False, 2_015_598_144, "l", 83.2, "accurate; slow on a CPU"),
)


def students_for(teacher_image_size: int) -> tuple[StudentRow, ...]:
    """The tier of students for a teacher's image size, from weak to strong."""
    return SMALL_STUDENTS if teacher_image_size <= SMALL_TIER else FULL_STUDENTS


def resolve_student(student: Student, teacher: TeacherShape) -> Resolved:
    """Architecture, image size and costs of the student that a recipe asks for.

    Raises:
        ValueError: no student fits the budget (the message names the smallest), or the name cannot be timm's.
    """
    tier = students_for(teacher.image_size)
    if student.architecture is not None:
        return _by_name(student.architecture, student.image_size, tier, teacher.image_size, teacher.embed_dim)
    if student.budget:
        row = _within_budget(student, tier, teacher)
    else:
        row = next(row for row in tier if row.preset == (student.size or DEFAULT_PRESET))
    return _at_size(row, student.image_size, teacher.embed_dim)


def _by_name(
    name: str, image_size: int | None, tier: tuple[StudentRow, ...], teacher_image_size: int, embed_dim: int
) -> Resolved:
    row = next((row for row in tier if row.architecture == name), None)
    if row is not None:
        return _at_size(row, image_size, embed_dim)
    check_architecture(name)
    return Resolved(name, image_size or teacher_image_size, 0, 0, None)


def _within_budget(student: Student, tier: tuple[StudentRow, ...], teacher: TeacherShape) -> StudentRow:
    def costs(row: StudentRow) -> Resolved:
        return _at_size(row, student.image_size, teacher.embed_dim)

    max_params = _max_params(student, teacher)
    fitting = [
        row
        for row in tier
        if (max_params is None or costs(row).params <= max_params)
        and (student.max_macs is None or costs(row).macs <= student.max_macs)
    ]
    if fitting:
        return fitting[-1]
    asked = ""
    if student.fewer_params is not None:
        asked = f" ({student.fewer_params:g} % fewer than the {teacher.params_image_tower:,} of the image tower)"
    fewest, cheapest = min(map(costs, tier), key=lambda r: r.params), min(map(costs, tier), key=lambda r: r.macs)
    raise ValueError(
        f"no student is that small{asked}: the fewest parameters has {fewest.architecture} ({fewest.params:,}, "
        f"with {fewest.macs:,} MACs), the fewest MACs {cheapest.architecture} ({cheapest.macs:,}, "
        f"with {cheapest.params:,} parameters)"
    )


def _max_params(student: Student, teacher: TeacherShape) -> int | None:
    """The smaller of the two budgets of parameters."""
    limits = [] if student.max_params is None else [student.max_params]
    if student.fewer_params is not None:
        limits.append(int(teacher.params_image_tower * (100 - student.fewer_params) / 100))
    return min(limits, default=None)


def _at_size(row: StudentRow, image_size: int | None, embed_dim: int) -> Resolved:
    """A row at another image size: the MACs grow with the area (an estimate; the training process measures)."""
    resolved = row.resolve(embed_dim)
    if image_size is None or image_size == row.image_size:
        return resolved
    macs = round(resolved.macs * (image_size / row.image_size) ** 2)
    return resolved._replace(image_size=image_size, macs=macs)
