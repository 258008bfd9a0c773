"""Teachers, generators and losses that the catalogue shows, with what a user must know of them. Torch-free data.

Anything else that open_clip or diffusers can load works too. Licences are repeated from the models' cards and may
change there: read them before using the weights.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TeacherRow:
    """An open_clip model. ``params_image_tower`` and ``params_total`` are 0 where the shipped weights decide."""

    model: str
    pretrained: str | None
    image_size: int
    embed_dim: int
    params_image_tower: int
    params_total: int
    licence: str
    note: str = ""


@dataclass(frozen=True)
class GeneratorRow:
    """A diffusers text-to-image pipeline with settings to begin with; a hub id also needs a pinned ``revision``."""

    model: str
    lora: str | None
    steps: int
    guidance: float
    size: int
    licence: str
    note: str = ""


@dataclass(frozen=True)
class LossRow:
    """A loss on L2-normalised features: s of the student, t of the teacher, u of the images' prompts, n images."""

    name: str
    formula: str
    source: str
    note: str = ""


TEACHERS = (
    TeacherRow("starter", None, 96, 256, 0, 0, "non-commercial (trained on Tiny ImageNet photos)", "works offline"),
    TeacherRow("ViT-B-32", "datacomp_xl_s13b_b90k", 224, 512, 87_849_216, 151_277_313, "MIT", "the paper's teacher"),
    TeacherRow("ViT-B-32", "laion2b_s34b_b79k", 224, 512, 87_849_216, 151_277_313, "MIT"),
    TeacherRow("ViT-B-16", "datacomp_xl_s13b_b90k", 224, 512, 86_192_640, 149_620_737, "MIT"),
    TeacherRow(
        "ViT-L-14", "datacomp_xl_s13b_b90k", 224, 768, 303_966_208, 427_616_513, "MIT", "stronger; 18 times the work"
    ),
    TeacherRow("ViT-B-16-SigLIP", "webli", 224, 768, 92_884_224, 203_155_970, "Apache-2.0"),
)

GENERATORS = (
    GeneratorRow("starter", None, 1, 0.0, 64, "non-commercial (trained on Tiny ImageNet photos)", "works offline"),
    GeneratorRow(
        "Lykon/dreamshaper-7",
        "latent-consistency/lcm-lora-sdv1-5",
        6,
        0.5,
        512,
        "CreativeML OpenRAIL-M: use restrictions",
        "the paper's code",
    ),
    GeneratorRow(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "latent-consistency/lcm-lora-sdxl",
        6,
        0.5,
        1024,
        "CreativeML OpenRAIL++-M: use restrictions",
        "the paper's code, several GPUs",
    ),
    GeneratorRow("stabilityai/sdxl-turbo", None, 1, 0.0, 512, "Stability AI: not for commercial use", "one step"),
    GeneratorRow("stabilityai/sd-turbo", None, 1, 0.0, 512, "Stability AI: not for commercial use", "one step"),
)

LOSSES = (
    LossRow("l2", "mean over i of ||s_i - t_i||, not squared", "arXiv 2404.16637", "the default"),
    LossRow(
        "mse", "mean over i and dimensions of (s - t)^2", "CLIP-KD's FD, arXiv 2307.12732", "CLIP-KD's weight: 2000"
    ),
    LossRow("cosine", "mean over i of 1 - s_i . t_i", "half the squared L2 distance"),
    LossRow("i2i", "InfoNCE of s_i against all t_j, at the teacher's temperature", "arXiv 2404.16637"),
    LossRow(
        "contrastive",
        "mean of InfoNCE(s, text) and InfoNCE(text, s), text = the teacher's features of the images' prompts",
        "arXiv 2404.16637",
        "learns spurious features of synthetic images; for comparison. CLIP-KD's task loss",
    ),
    LossRow(
        "crd",
        "mean of KL(t || s) of the softmax of images over texts and of texts over images, at the teacher's temperature",
        "CLIP-KD's CRD, arXiv 2307.12732",
        "weight 1; CLIP-KD's unified sum is crd 1, mse 2000, icl 1, contrastive 1",
    ),
    LossRow(
        "mfd",
        "mse with s of the image with 75 % of its 16-pixel patches masked",
        "CLIP-KD's MFD, arXiv 2307.12732",
        "weight 2000; a second forward of the student in each step",
    ),
    LossRow(
        "gd",
        "squared differences of the gradients of InfoNCE(s, u) and InfoNCE(u, s) from the teacher's, by image and text",
        "CLIP-KD's GD, arXiv 2307.12732",
        "weight 1e8 * (n / 1024)^2",
    ),
    LossRow(
        "icl",
        "mean of InfoNCE(s, text) and InfoNCE(text, t); the second has no gradient, for the texts are the teacher's",
        "CLIP-KD's ICL, arXiv 2307.12732",
        "weight 1",
    ),
    LossRow(
        "afd",
        "contrastive with normalise(W [s; t] + b) for s, W and b trained too",
        "CLIP-KD's AFD, arXiv 2307.12732",
        "weight 1; the layer is dropped after training",
    ),
)
