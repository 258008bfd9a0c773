"""The parts that train a generator: losses against plain references, captions, critic, text encoder, pipeline."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from distillation.generator_training.captions import COLOURS, UNSAID, background, caption, light
from distillation.generator_training.critic import Critic, feature_levels, noisy
from distillation.generator_training.discriminators import Discriminators, discriminator_loss
from distillation.generator_training.kid import kernel_distance, squared_mmd
from distillation.generator_training.nearest import nearest_distances
from distillation.generator_training.networks import OneStep, load_base, save_pipeline
from distillation.generator_training.photo_bank import PhotoBank
from distillation.generator_training.photo_encoder import CODE_CHANNELS, FIRST_LOG_VARIANCE, PhotoEncoder, divergence
from distillation.generator_training.photos import Photos
from distillation.generator_training.text_encoder import teacher_texts
from distillation.views import apply_views, whole_views
from models.errors import ModelError
from models.generators import load_generator
from models.sampling import Sampler
from models.teachers import load_teacher


def test_the_rate_of_codes_is_their_divergence_from_noise() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    reference = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3)).mean()
    assert float(divergence(mean, log_variance)) == pytest.approx(float(reference), rel=1e-5)
    assert float(divergence(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))) == 0


@pytest.mark.parametrize("size", [32, 64, 96])
def test_a_photo_has_a_code_of_the_noises_size_that_says_which_it_is(teacher_folder: Path, size: int) -> None:
    critic = Critic(load_teacher(str(teacher_folder)), [["a cat"], ["a dog"]], size)
    images = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    maps, summaries = critic.look(apply_views(images, whole_views(3), size, critic.mean, critic.std))
    noise = OneStep(size, 32).draw_noise(1)
    mean, log_variance = PhotoEncoder(critic, noise.shape[-1])(maps, summaries)
    assert mean.shape == log_variance.shape == (3, CODE_CHANNELS, *noise.shape[2:])
    assert float(log_variance.detach().mean()) == pytest.approx(FIRST_LOG_VARIANCE, abs=1)
    assert not torch.allclose(mean[0], mean[1], atol=0.01)


@pytest.fixture(scope="module")
def looked_at(teacher_folder: Path) -> tuple[Critic, Photos, PhotoBank, list[int]]:
    """Forty photos of noise of three classes, and the bank of them."""
    names = ["lemon", "school bus", "pizza"]
    critic = Critic(load_teacher(str(teacher_folder)), [[f"a photo of a {name}"] for name in names], 64)
    torch.manual_seed(0)
    photos = Photos(torch.randint(0, 256, (40, 64, 64, 3), dtype=torch.uint8), torch.arange(40) % 3)
    told: list[int] = []
    return critic, photos, PhotoBank.fill(critic, photos, told.append), told


def test_the_bank_keeps_what_the_critic_sees(looked_at: tuple[Critic, Photos, PhotoBank, list[int]]) -> None:
    critic, photos, bank, told = looked_at
    originals = {photo.numpy().tobytes(): label for photo, label in zip(*_arrays(photos), strict=True)}
    kept = list(zip(*_arrays(bank.photos), strict=True))
    as_taken = [originals.get(image.numpy().tobytes()) for image, _ in kept]
    mirrored = [originals.get(image.flip(1).contiguous().numpy().tobytes()) for image, _ in kept]
    assert [one if one is not None else other for one, other in zip(as_taken, mirrored, strict=True)] == [
        label for _, label in kept
    ]
    assert None in as_taken and None in mirrored, "some are mirrored, some are not"
    assert told == [14, 27, 40]
    rows = torch.tensor([4, 1])
    pixels = apply_views(bank.images[rows], whole_views(2), 64, critic.mean, critic.std)
    for held, seen in zip(bank.seen(rows), critic.look(pixels), strict=True):
        assert all(torch.allclose(a, b.float(), atol=0.05, rtol=0.05) for a, b in zip(held, seen, strict=True))


def test_photos_that_the_teacher_knows_are_kept_and_half_of_each_class(
    looked_at: tuple[Critic, Photos, PhotoBank, list[int]],
) -> None:
    critic, photos, bank, _ = looked_at

    def known(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pixels = apply_views(images, whole_views(len(images)), 64, critic.mean, critic.std)
        return (critic.look(pixels)[1][0] @ critic.head).argmax(1) == labels

    right = known(photos.images, photos.labels) | known(photos.images.flip(2), photos.labels)
    surely = known(photos.images, photos.labels) & known(photos.images.flip(2), photos.labels)
    kept = bank.photos.labels
    for label in range(3):
        of_class = photos.labels == label
        half, count = -(-int(of_class.sum()) // 2), int((kept == label).sum())
        assert max(half, int(surely[of_class].sum())) <= count <= max(half, int(right[of_class].sum()))


def _arrays(photos: Photos) -> tuple[torch.Tensor, list[int]]:
    return photos.images, photos.labels.tolist()


def test_kernel_distance_against_a_plain_reference() -> None:
    random_numbers = np.random.default_rng(1)
    first, second = random_numbers.normal(size=(5, 3)), random_numbers.normal(size=(4, 3)) + 0.5

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float((a @ b / 3 + 1) ** 3)

    own = np.mean([kernel(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j])
    other = np.mean([kernel(a, b) for i, a in enumerate(second) for j, b in enumerate(second) if i != j])
    across = np.mean([kernel(a, b) for a in first for b in second])
    assert squared_mmd(first, second) == pytest.approx(own + other - 2 * across)


def test_kernel_distance_tells_distributions_apart() -> None:
    random_numbers = np.random.default_rng(2)
    alike = [_unit(random_numbers.normal(size=(200, 16))) for _ in range(2)]
    shifted = _unit(random_numbers.normal(size=(200, 16)) + 0.5)
    same, other = kernel_distance(*alike, 0), kernel_distance(alike[0], shifted, 0)
    assert same["subset_size"] == 100 and same["deviation"] > 0
    assert abs(same["mean"]) < 3 * same["deviation"] < other["mean"]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_memorised_photo_is_found_mirrored_too() -> None:
    photos = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    changed = photos[7].int().add(10).clamp(max=255).byte()
    distances = nearest_distances(torch.stack([photos[3], photos[5].flip(1), changed]), photos)
    assert distances[0] == distances[1] == 0
    reference = np.sqrt(np.square((changed.float() - photos[7].float()).numpy() / 255).mean())
    assert float(distances[2]) == pytest.approx(float(reference), rel=1e-5)


def test_captions_say_what_is_measured() -> None:
    dark_green = np.full((64, 64, 3), (10, 40, 10), np.uint8)
    assert light(dark_green) == 0
    white = np.full((32, 32, 3), 240, np.uint8)
    white[4:-4, 4:-4] = 0  # what the rim is not
    assert list(COLOURS)[background(white)] == "white"
    assert light(np.full((64, 64, 3), 240, np.uint8)) == 1
    said = [caption("lemon", 0, background(white), random.Random(seed)).split(", ") for seed in range(50)]
    assert all(parts[0] == "a photo of a lemon" and "white background" in parts for parts in said)
    assert all({"at night", "in the dark"} & set(parts) for parts in said)
    assert {len(parts) for parts in said} == {3, 4, 5}  # none, one or two of the words that no photo tells
    unsaid = [caption("lemon", UNSAID, UNSAID, random.Random(seed)) for seed in range(50)]
    assert "a photo of a lemon" in unsaid and not any("background" in text for text in unsaid)


def test_discriminators_learn_to_tell_what_is_told() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(8, channels, side, side) for channels, side in ((32, 16), (48, 8), (192, 4))]
    pixels, said = torch.randn(8, 3, 64, 64), torch.tensor([[0, 0, UNSAID]] * 4 + [[1, UNSAID, 3]] * 4)
    judges = Discriminators(2, [32, 48, 192])
    optimiser = torch.optim.Adam(judges.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        scores = judges(pixels, maps, said)
        loss = discriminator_loss([score[:4] for score in scores], [score[4:] for score in scores])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_critic_sees_images_of_any_size_and_leads_back_to_their_pixels(teacher_folder: Path, size: int) -> None:
    teacher = load_teacher(str(teacher_folder))
    critic = Critic(teacher, [["a cat"], ["a dog"]], size)
    assert [channels for channels, _, _ in critic.map_shapes] == [32, 48, 192]
    assert [side for _, side, _ in critic.map_shapes] == [16, 8, 4]  # of the teacher's 64 pixels
    images = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8)
    photos = apply_views(images, whole_views(3), size, critic.mean, critic.std)
    made = (images.permute(0, 3, 1, 2) / 255).requires_grad_()
    torch.manual_seed(0)
    ours = critic.normalise(made)
    torch.manual_seed(0)
    assert torch.allclose(ours, noisy(photos), atol=1e-4)
    _, summaries = critic.look(ours)
    whole = teacher.encode_image(apply_views(images, whole_views(3), 64, critic.mean, critic.std))
    assert float((critic.look(photos)[1][0] * whole).sum(1).min()) > 0.98  # the teacher's own feature
    sum(summary.square().sum() for summary in summaries).backward()
    assert made.grad is not None and bool((made.grad.abs().amax((1, 2, 3)) > 0).all())


@pytest.mark.parametrize(
    ("architecture", "levels"),
    [("resnet18d", [1, 2, 3, 4]), ("test_convnext", [0, 1, 2, 3]), ("test_vit", None)],
)
def test_levels_of_other_networks(architecture: str, levels: list[int] | None) -> None:
    visual = open_clip.timm_model.TimmModel(architecture, embed_dim=16, image_size=64, pool="avg", proj="linear")
    found = feature_levels(visual, architecture)
    assert found == sorted(set(found)) and found[-1] == len(visual.trunk.feature_info) - 1
    assert found == levels if levels else len(found) == 4


def test_other_image_towers_are_refused() -> None:
    tower = open_clip.transformer.VisionTransformer(32, 16, 32, 1, 2, 2.0, output_dim=16)
    with pytest.raises(ModelError, match="not a timm network") as raised:
        feature_levels(tower, "plain")
    assert (raised.value.code, raised.value.field) == ("bad_architecture", "teacher.model")


def test_the_text_encoder_is_the_teachers(teacher_folder: Path) -> None:
    teacher = load_teacher(str(teacher_folder))
    texts = teacher_texts(teacher)
    captions = ["a photo of a lemon", "a tractor, in the dark"]
    with torch.inference_mode():
        hidden = texts(captions)
        assert hidden.shape == (2, 20, texts.width)
        ends = texts.tokens(captions).argmax(1)
        features = hidden[torch.arange(2), ends] @ teacher.text_tower.text_projection
    cosine = torch.nn.functional.cosine_similarity(features, teacher.encode_text(captions))
    assert float(cosine.min()) > 0.9999


@pytest.mark.usefixtures("own_open_clip_models")
def test_a_named_teacher_with_open_clips_own_tokenizer(tmp_path: Path) -> None:
    """Such as its ConvNeXts; the pipeline's tokenizer is transformers', and its files are the pipeline's."""
    vision = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "timm-tower-for-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "timm-tower-for-test.json")
    torch.manual_seed(0)
    save_file(open_clip.create_model("timm-tower-for-test").state_dict(), tmp_path / "weights.safetensors")
    teacher = load_teacher("timm-tower-for-test", str(tmp_path / "weights.safetensors"))
    texts = teacher_texts(teacher)
    captions = ["a photo of a lemon, it's on a café's table", "Two tractors (old) at 10:30 - in the dark!"]
    assert torch.equal(
        *(tokens.where(tokens < 49406, 0) for tokens in (texts.tokens(captions), teacher.tokenizer(captions)))
    )
    save_pipeline(OneStep(32, texts.width), texts, tmp_path / "pipeline")
    read = CLIPTokenizer.from_pretrained(tmp_path / "pipeline" / "tokenizer")
    options = {"padding": "max_length", "max_length": 24, "return_tensors": "pt"}
    assert torch.equal(read(captions, **options).input_ids, texts.tokens(captions))


def test_a_text_tower_that_reads_otherwise_is_refused(teacher_folder: Path) -> None:
    teacher = load_teacher(str(teacher_folder))
    teacher.text_tower.attn_mask.zero_()  # every token sees every other: not CLIP's
    with pytest.raises(ModelError, match="agree with a cosine") as raised:
        teacher_texts(teacher)
    assert raised.value.field == "teacher.model"


@pytest.mark.parametrize("size", [32, 64])
def test_the_saved_pipeline_draws_what_was_trained(teacher_folder: Path, tmp_path: Path, size: int) -> None:
    """Through the production loader and sampler, in the one step that the scheduler is saved for."""
    torch.manual_seed(0)
    texts = teacher_texts(load_teacher(str(teacher_folder)))
    model = OneStep(size, texts.width).eval()
    save_pipeline(model, texts, tmp_path)
    assert isinstance(CLIPTokenizer.from_pretrained(tmp_path / "tokenizer"), CLIPTokenizer)
    pipeline = load_generator(str(tmp_path), device=torch.device("cpu"))
    images = Sampler(pipeline, steps=1, guidance=0.0, batch_size=2).sample(["a lemon", "a tractor"], [3, 4])
    shape = model.draw_noise(1).shape
    noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    with torch.inference_mode():
        expected = model(noise, texts(["a lemon", "a tractor"])).mul(0.5).add(0.5).clamp(0, 1).mul(255)
    assert images.shape == (2, size, size, 3)
    assert float((images.float() - expected.permute(0, 2, 3, 1)).abs().mean()) < 2  # grey levels: fp16 and bf16


def test_a_generator_to_go_on_from_draws_what_it_drew(teacher_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = teacher_texts(load_teacher(str(teacher_folder)))
    model = OneStep(32, texts.width).eval()
    save_pipeline(model, texts, tmp_path)
    again, read = load_base(str(tmp_path), 32, torch.device("cpu"))
    noise, captions = model.draw_noise(2), ["a lemon", "a tractor"]
    with torch.no_grad():
        assert torch.allclose(again.eval()(noise, read(captions)), model(noise, texts(captions)), atol=0.02)  # fp16
    assert load_base(str(tmp_path), 64, torch.device("cpu"))[0].draw_noise(1).shape[-1] == 8


def test_other_pipelines_are_nothing_to_go_on_from(sd_folder: Path, tmp_path: Path) -> None:
    for folder, code in ((sd_folder, "bad_architecture"), (tmp_path, "weights_missing")):
        with pytest.raises(ModelError) as raised:
            load_base(str(folder), 32, torch.device("cpu"))
        assert (raised.value.code, raised.value.field) == (code, "base")
