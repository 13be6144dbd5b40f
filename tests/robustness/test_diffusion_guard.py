import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import train
from datamodules.editing.images_to_protect import ImagesToProtect
from datamodules.editing.masked_digits import MaskedDigits
from datamodules.files.image_files import UnreadableImage
from datamodules.loading.global_batches import Request
from experiments.command_line import CommandLine
from lightning_modules.random_numbers import generator_of
from lightning_modules.robustness.diffusion_guard.clip_similarity import CLIP
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter, PixelInpainter, StableDiffusionInpainter
from lightning_modules.robustness.diffusion_guard.kept_regions import (
    deformed,
    draw_kept,
    filled,
    outer_contour,
    radius,
    shrunk,
)
from lightning_modules.robustness.diffusion_guard.module import (
    PROTECTING,
    DiffusionGuard,
    noise_norm,
    prompted,
    protected,
    psnr_where,
    ssim,
)
from tests.command import run as command
from tests.robustness.tiny_clip import save_tiny_clip

SIZE = 8


class LinearInpainter(Inpainter):
    """Predicts z + A y: the norm's gradient has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = DDIMScheduler(steps_offset=1)
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(SIZE**2, SIZE**2, generator=generator, dtype=torch.float64))

    def noise_shape(self, image: Tensor) -> torch.Size:
        return image.shape

    def encode(self, image: Tensor, draw: Tensor) -> Tensor:
        return 2 * image - 1

    def predicted_noise(self, noisy: Tensor, repaint: Tensor, blanked: Tensor, timestep: Tensor) -> Tensor:
        return noisy + (blanked.flatten(1) @ self.matrix.T).view_as(noisy)

    def edit(self, image: Tensor, keep: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        return image * keep + (1 - keep) * image.mean(dim=(1, 2, 3), keepdim=True)


def images(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    regions = torch.zeros(count, 2, SIZE, SIZE, dtype=torch.bool)
    regions[:, 0, 1:5, 1:5] = True
    regions[:, 1, 4:7, 3:8] = True
    return image, regions, torch.arange(count) + 10


def ellipse(size: int = 64) -> np.ndarray:
    row, column = np.mgrid[:size, :size] / size
    return ((row - 0.5) / 0.23) ** 2 + ((column - 0.47) / 0.33) ** 2 <= 1


# the iterations


def test_iterates_are_those_of_an_independent_computation() -> None:
    image, regions, _ = images(1)
    inpainter, noise = LinearInpainter(), torch.randn(1, 1, SIZE, SIZE, dtype=torch.float64)
    keep = regions.any(dim=1, keepdim=True).double()

    def objective(adversarial: Tensor, keep: Tensor) -> Tensor:
        return noise_norm(inpainter.noise_given(adversarial, keep, noise, noise, torch.tensor([751]))).sum()

    found = protected(image, objective, lambda: keep, epsilon=0.05, step_size=0.02, iterations=5)
    a, z, k = inpainter.matrix.detach().numpy(), noise.numpy().ravel(), keep.numpy().ravel()
    x = x0 = image.numpy().ravel()
    for _ in range(5):
        predicted = z + a @ ((2 * x - 1) * k)
        gradient = 2 * k * (a.T @ predicted) / np.linalg.norm(predicted)
        x = np.clip(np.clip(x + 0.02 * np.sign(gradient * k), x0 - 0.05, x0 + 0.05), 0, 1)
    np.testing.assert_allclose(found.detach().numpy().ravel(), x, atol=1e-12)


def test_the_norm_and_its_square_move_alike_and_the_norm_grows() -> None:
    image, regions, _ = images(1)
    inpainter, noise = LinearInpainter(), torch.randn(1, 1, SIZE, SIZE, dtype=torch.float64)
    keep = regions.any(dim=1, keepdim=True).double()

    def norm(adversarial: Tensor, keep: Tensor) -> Tensor:
        return noise_norm(inpainter.noise_given(adversarial, keep, noise, noise, torch.tensor([751]))).sum()

    arguments: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.002, "iterations": 8}
    one = protected(image, norm, lambda: keep, **arguments)
    two = protected(image, lambda x, k: norm(x, k).square(), lambda: keep, **arguments)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    with torch.enable_grad():
        moved = [protected(image, norm, lambda: keep, 0.1, 0.002, steps) for steps in (1, 3, 6)]
    norms = [norm(each, keep).item() for each in moved]
    assert norm(image, keep).item() < norms[0] < norms[1] < norms[2]


def test_gradients_are_averaged_before_the_sign() -> None:
    image = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    slopes = iter([3.0, -1.0, -3.0, 1.0])
    moved = protected(image, lambda x, k: next(slopes) * x.sum(), lambda: torch.ones_like(image), 0.3, 0.1, 1, 2)
    assert float(moved) == pytest.approx(0.6)
    moved = protected(image, lambda x, k: next(slopes) * x.sum(), lambda: torch.ones_like(image), 0.3, 0.1, 1, 2)
    assert float(moved) == pytest.approx(0.4)


@pytest.mark.parametrize("objective", ["noise_norm", "encoder", "denoising_error", "random"])
@pytest.mark.parametrize("augmentation", ["contour", "single", "global"])
def test_the_budget_is_kept_and_what_is_never_kept_does_not_move(objective: Any, augmentation: Any) -> None:
    image, regions, index = images()
    guard = DiffusionGuard(
        LinearInpainter(),
        objective=objective,
        epsilon=0.03,
        step_size=0.01,
        iterations=6,
        augmentation=augmentation,
    )
    guarded = guard.protect(image, regions, index)
    assert (guarded - image).abs().max() <= 0.03 + 1e-12
    assert (guarded - image).abs().amax(dim=(1, 2, 3)).min() > 0
    assert guarded.min() >= 0
    assert guarded.max() <= 1
    if augmentation == "single" or objective == "random":
        outside = ~regions.any(dim=1, keepdim=True)
        assert torch.equal(guarded[outside], image[outside])
    assert all(parameter.grad is None for parameter in guard.parameters())


def test_an_image_is_protected_alike_in_whatever_batch() -> None:
    image, regions, index = images()
    guard = DiffusionGuard(LinearInpainter(), iterations=4, epsilon=0.1, step_size=0.02)
    together = guard.protect(image, regions, index)
    order = torch.tensor([2, 0])
    torch.testing.assert_close(guard.protect(image[order], regions[order], index[order]), together[order])
    assert not torch.equal(guard.protect(image[:1], regions[:1], index[1:2]), together[:1])


def test_the_encoder_objective_draws_the_encoding_to_grey() -> None:
    image, regions, index = images()
    guard = DiffusionGuard(
        LinearInpainter(), objective="encoder", iterations=3, epsilon=0.1, step_size=0.02, augmentation="single"
    )
    keep = regions.any(dim=1, keepdim=True)
    expected = torch.where(keep, image - (image - 0.5).sign() * 0.06, image)
    far = (image - 0.5).abs() > 0.06
    guarded = guard.protect(image, regions, index)
    torch.testing.assert_close(guarded[far & keep], expected[far & keep])


@pytest.mark.parametrize("objective", ["noise_norm", "denoising_error"])
def test_protection_climbs_the_norm_or_the_error_with_the_numbers_of_the_image(objective: Any) -> None:
    """Gradients by hand: of ||z + A y||, and of ||z_t + A y - z||^2 / D at the timestep that is drawn."""
    image, regions, index = images(1)
    inpainter = LinearInpainter()
    guard = DiffusionGuard(
        inpainter, objective=objective, iterations=3, epsilon=0.05, step_size=0.02, augmentation="single"
    )
    found = guard.protect(image, regions, index)
    random = generator_of(0, 10, PROTECTING)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    a, k = inpainter.matrix.detach().numpy(), regions.any(dim=1).double().numpy().ravel()
    x = x0 = image.numpy().ravel()
    for _ in range(3):
        z, _ = (torch.randn(1, SIZE, SIZE, generator=random).double().numpy().ravel() for _ in range(2))
        of_image = a @ ((2 * x - 1) * k)
        if objective == "noise_norm":
            gradient = 2 * k * (a.T @ (z + of_image)) / np.linalg.norm(z + of_image)
        else:
            t = int(torch.randint(1000, (1,), generator=random))
            error = np.sqrt(abar[t]) * (2 * x - 1) + np.sqrt(1 - abar[t]) * z + of_image - z
            gradient = 2 * (2 * np.sqrt(abar[t]) * error + 2 * k * (a.T @ error)) / SIZE**2
        x = np.clip(np.clip(x + 0.02 * np.sign(gradient * k), x0 - 0.05, x0 + 0.05), 0, 1)
    np.testing.assert_allclose(found.numpy().ravel(), x, atol=1e-12)


@pytest.mark.parametrize("augmentation", ["contour", "single", "global"])
def test_an_image_is_protected_alike_beside_images_with_more_regions(augmentation: Any) -> None:
    """A batch is filled up with empty regions to the image that has the most."""
    image, regions, index = images()
    guard = DiffusionGuard(LinearInpainter(), iterations=4, epsilon=0.1, step_size=0.02, augmentation=augmentation)
    one = regions[:, :1]
    expected = guard.protect(image, one, index)
    nothing = torch.zeros_like(one)
    for filled_up in ([one, nothing, nothing], [nothing, one]):
        assert torch.equal(guard.protect(image, torch.cat(filled_up, dim=1), index), expected)


# regions


def test_the_radius_is_the_codes() -> None:
    region = np.zeros((20, 20), dtype=bool)
    region[2:10, 3:8] = True
    assert radius(region) == pytest.approx(np.sqrt(40 * np.pi / 2))


def test_a_contour_fills_to_its_region() -> None:
    region = ellipse()
    assert (filled(outer_contour(region), region.shape) == region).all()
    ring = region.copy()
    ring[30:34, 28:34] = False
    assert (filled(outer_contour(ring), ring.shape) == region).all()  # the outer contour alone
    two = region.copy()
    two[:3, :3] = True
    assert (filled(outer_contour(two), two.shape) == region).all()  # of the largest part
    square = np.zeros((6, 6), dtype=bool)
    square[1:5, 2:5] = True
    assert sorted(map(tuple, outer_contour(square).tolist())) == [(1, 2), (1, 4), (4, 2), (4, 4)]
    for pixels in ([(2, 3)], [(2, 3), (2, 4)], [(0, 0), (1, 1)]):
        few = np.zeros((5, 5), dtype=bool)
        few[tuple(zip(*pixels, strict=True))] = True
        assert (filled(outer_contour(few), few.shape) == few).all()
    assert len(outer_contour(np.zeros((4, 4), dtype=bool))) == 0


def test_without_offsets_a_region_stays() -> None:
    region = ellipse()
    still = deformed(region, 0, 3.0, np.random.default_rng(0))
    assert (still & region).sum() >= 0.99 * region.sum()
    nothing = np.zeros((9, 9), dtype=bool)
    assert not shrunk(nothing, np.random.default_rng(0)).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_deformed_region_stays_within_its_own(seed: int) -> None:
    region = ellipse()
    drawn = shrunk(region, np.random.default_rng(seed))
    assert drawn.dtype == bool
    assert 0 < drawn.sum() <= 1.05 * region.sum()
    assert (drawn & ~region).sum() <= 24


def test_shrinking_has_the_published_spread() -> None:
    region, random = ellipse(), np.random.default_rng(0)
    kept = [shrunk(region, random).sum() / region.sum() for _ in range(120)]
    assert 0.15 < np.median(kept) < 0.5  # .34 over 300 draws of the authors' code
    assert np.quantile(kept, 0.95) > 0.9


def test_what_is_kept_is_the_union_of_the_regions() -> None:
    _, regions, _ = images(1)
    both, random = regions[0].numpy(), np.random.default_rng(1)
    assert (draw_kept(both, "single", random) == (both[0] | both[1])).all()
    assert draw_kept(both, "global", random).all()
    apart = np.stack([shrunk(region, np.random.default_rng(5)) for region in both[:1]])
    assert (draw_kept(both[:1], "contour", np.random.default_rng(5)) == apart[0]).all()


# models that repaint


@pytest.mark.parametrize("scheduler", [PNDMScheduler, DDIMScheduler])
def test_the_first_of_four_steps(scheduler: Any) -> None:
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    inpainter = LinearInpainter()
    inpainter.scheduler = scheduler(steps_offset=1, **options)
    assert inpainter.first_timestep(4) == 751
    assert inpainter.first_timestep(50) == 981
    assert DiffusionGuard(inpainter).timestep == 751
    assert DiffusionGuard(inpainter, timestep=5).timestep == 5


class Oracle(nn.Module):
    """Knows the noise of one clean image at each timestep."""

    def __init__(self, clean: Tensor, abar: Tensor) -> None:
        super().__init__()
        self.clean, self.abar = clean, abar

    def forward(self, channels: Tensor, timestep: Tensor) -> Any:
        noisy = channels[:, :1]
        abar = self.abar[timestep].view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(noisy - abar.sqrt() * self.clean) / (1 - abar).sqrt())


def test_a_pixel_inpainter_that_knows_the_noise_paints_the_image() -> None:
    image, regions, _ = images(2)
    image = image.float()
    keep = regions.any(dim=1, keepdim=True).float()
    inpainter = PixelInpainter(nn.Identity())
    inpainter.network = Oracle(2 * image - 1, inpainter.scheduler.alphas_cumprod)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([10, 700])
    assert inpainter.denoising_error(image, keep, noise, noise, timestep).max() < 1e-4

    def expected(clean: Tensor) -> Tensor:
        """The noise of the first step stays, and the last one leaves as much as the schedule begins with."""
        abar = inpainter.scheduler.alphas_cumprod
        first, last = abar[inpainter.first_timestep(12)], abar[0]
        constant = (noise - first.sqrt() * clean) / (1 - first).sqrt()
        return ((last.sqrt() * clean + (1 - last).sqrt() * constant + 1) / 2).clamp(0, 1)

    for clean in (2 * image - 1, torch.ones_like(image)):
        inpainter.network = Oracle(clean, inpainter.scheduler.alphas_cumprod)
        painted = inpainter.edit(image, keep, ["", ""], noise)
        torch.testing.assert_close(painted * keep, image * keep)
        torch.testing.assert_close(painted * (1 - keep), expected(clean) * (1 - keep), atol=1e-3, rtol=0)


def test_the_network_sees_noise_mask_and_blanked_image() -> None:
    image, regions, _ = images(2)
    keep = regions.any(dim=1, keepdim=True).double()
    seen: list[Tensor] = []

    class Records(nn.Module):
        def forward(self, channels: Tensor, timestep: Tensor) -> Any:
            seen.append(channels)
            return SimpleNamespace(sample=channels[:, :1])

    inpainter = PixelInpainter(Records())
    noise = torch.randn_like(image)
    inpainter.noise_given(image, keep, noise, noise, torch.tensor(5))
    torch.testing.assert_close(seen[0], torch.cat([noise, 1 - keep, (2 * image - 1) * keep], dim=1))


def test_a_network_for_other_channels_is_named() -> None:
    channels: dict[str, Any] = {"in_channels": 3, "out_channels": 1}
    network = UNet2DModel(
        sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        norm_num_groups=4, layers_per_block=1, add_attention=False, **channels,
    )  # fmt: skip
    guard = DiffusionGuard(PixelInpainter(network), iterations=1)
    image, regions, index = images(1)
    assert guard.protect(image.float(), regions, index).shape == image.shape
    with pytest.raises(
        ValueError, match=r"3 channels need .* in_channels 7 \(.*\) and out_channels 3, .* has 3 and 1$"
    ):
        guard.protect(image.float().expand(-1, 3, -1, -1), regions, index)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion inpainting pipeline with random weights, saved to disk."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    vocabulary = {
        token: number for number, token in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>"])
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=4,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=9, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        sample_size=16,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "saved")  # fmt: skip
    return folder / "saved"


def test_a_saved_pipeline_is_frozen_and_asked_for_its_text_once(pipeline: Path) -> None:
    inpainter = StableDiffusionInpainter(str(pipeline), num_inference_steps=2)
    image = torch.rand(2, 3, 16, 16)
    regions = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    regions[:, :, 2:12, 3:13] = True
    calls: list[int] = []
    inpainter.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    guard = DiffusionGuard(inpainter, iterations=3, epsilon=0.1, step_size=0.05)
    assert guard.timestep == 751
    assert inpainter.noise_shape(image) == (2, 4, 8, 8)
    guarded = guard.protect(image, regions, torch.arange(2))
    assert 0 < (guarded - image).abs().max() <= 0.1 + 1e-6
    assert len(calls) == 1
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in guard.parameters())
    guard.train()
    assert not inpainter.network.training
    with pytest.raises(ValueError, match="nothing to train"):
        guard.setup("fit")


def test_its_encoding_is_the_pipelines(pipeline: Path) -> None:
    inpainter = StableDiffusionInpainter(str(pipeline))
    image, draw = torch.rand(1, 3, 16, 16), torch.randn(1, 4, 8, 8)
    vae: Any = inpainter.vae
    moments = vae.encode(2 * image - 1).latent_dist
    expected = vae.config.scaling_factor * (moments.mean + torch.exp(0.5 * moments.logvar) * draw)
    torch.testing.assert_close(inpainter.encode(image, draw), expected)


@pytest.mark.parametrize("darkest", [0.0, 0.6])
def test_its_editor_sees_what_protection_blanks(
    pipeline: Path, darkest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inpainter = StableDiffusionInpainter(str(pipeline), num_inference_steps=2, guidance_scale=1.0)
    image = darkest + (1 - darkest) * torch.rand(2, 3, 16, 16)
    keep = torch.zeros(2, 1, 16, 16)
    keep[:, :, 2:12, 3:13] = 1
    seen: list[Tensor] = []
    vae: Any = inpainter.vae
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda given: (seen.append(given), encode(given))[1])
    edited = inpainter.edit(image, keep, ["a cat", "a"], torch.randn(2, 4, 8, 8))
    assert edited.shape == image.shape
    torch.testing.assert_close(torch.cat(seen), 2 * inpainter.blanked(image, keep) - 1)


def test_its_edit_of_an_image_is_the_same_in_whatever_batch(pipeline: Path) -> None:
    inpainter = StableDiffusionInpainter(str(pipeline), num_inference_steps=2).double()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64)
    keep = torch.zeros(3, 1, 16, 16, dtype=torch.float64)
    keep[:, :, 2:12, 3:13] = 1
    prompts = ["a cat", "a", "cat"]
    together = inpainter.edit(image, keep, prompts, noise)
    alone = [inpainter.edit(image[row, None], keep[row, None], [prompts[row]], noise[row, None]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_pipeline_that_does_not_fit_is_named(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no diffusers network"):
        StableDiffusionInpainter(str(tmp_path / "nowhere"))
    UNet2DConditionModel(
        in_channels=4, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        mid_block_type=None, norm_num_groups=4, layers_per_block=1,
    ).save_pretrained(tmp_path / "unet")  # fmt: skip
    with pytest.raises(ValueError, match="takes 4 channels, and that of an inpainting model takes 9"):
        StableDiffusionInpainter(str(tmp_path))


# folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, seen in (("one", ["seen"]), ("two", ["seen_face", "seen_hand"])):
        masks = tmp_path / "photos" / "masks" / name
        masks.mkdir(parents=True)
        (tmp_path / "photos" / "images").mkdir(exist_ok=True)
        pixels = random.integers(0, 256, size=(20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "images" / f"{name}.png")
        for number, mask in enumerate([*seen, "unseen1"]):
            white = np.zeros((20, 20), dtype=np.uint8)
            white[2 + number : 12, 4:15] = 255
            Image.fromarray(white).save(masks / f"{mask}.png")
    (tmp_path / "photos" / "prompts.json").write_text(json.dumps({"one": ["a cat", "a"], "two": ["a cat"]}))
    return tmp_path / "photos"


def test_a_folder_is_read(folder: Path) -> None:
    data = ImagesToProtect(str(folder), image_size=16)
    data.setup("test")
    assert data.test_set is not None
    batch = data.test_set[Request(torch.tensor([0, 1]), 0, 2)]
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["regions"].shape == (2, 2, 16, 16)
    assert not batch["regions"][0, 1].any()  # it has one region
    assert torch.equal(batch["editor_keeps"][:, 0], batch["regions"].any(dim=1))
    assert batch["name"] == ["one", "two"]
    assert batch["prompt"] == [["a cat", "a"], ["a cat"]]
    assert "source_prompt" not in batch
    assert prompted(batch["prompt"]) == [([0, 1], ["a cat", "a cat"]), ([0], ["a"])]


def test_an_images_name_may_have_dots_and_brackets(folder: Path) -> None:
    for name in ("one.5", "[1]"):
        Image.new("RGB", (20, 20)).save(folder / "images" / f"{name}.png")
        Image.new("L", (20, 20), 255).save(folder / "masks" / f"{name}.png")
    for masks in ("one", "two"):
        for mask in (folder / "masks" / masks).glob("unseen*"):
            mask.unlink()
    (folder / "masks" / "one" / "seen.png").rename(folder / "masks" / "one.png")
    data = ImagesToProtect(str(folder), image_size=16)
    data.setup("predict")
    assert data.test_set is not None
    batch = data.test_set[Request(torch.arange(4), 0, 4)]
    assert batch["name"] == ["[1]", "one.5", "one", "two"]
    assert batch["regions"][:2, 0].all()
    assert not batch["regions"][2].any(dim=0).all()  # not the mask of one.5
    assert batch["editor_keeps"].shape == (4, 1, 16, 16)


def test_prompts_may_come_with_what_the_image_shows(folder: Path) -> None:
    one, two = {"source": "a", "edits": ["a cat", "a"]}, {"source": "", "edits": ["cat"]}
    (folder / "prompts.json").write_text(json.dumps({"one": one, "two": two}))
    data = ImagesToProtect(str(folder), image_size=16)
    data.setup("test")
    assert data.test_set is not None
    batch = data.test_set[Request(torch.tensor([1, 0]), 0, 2)]
    assert batch["prompt"] == [["cat"], ["a cat", "a"]]
    assert batch["source_prompt"] == ["", "a"]


def test_prompts_that_do_not_fit_are_named(folder: Path) -> None:
    def refused(prompts: str, match: str) -> None:
        (folder / "prompts.json").write_text(prompts)
        with pytest.raises(ValueError, match=match):
            ImagesToProtect(str(folder), image_size=16).setup("test")

    refused("{", "prompts.json is no JSON")
    refused("[]", "prompts.json is not of the form")
    refused(json.dumps({"one": ["a"], "two": ["a"], "three": ["a"]}), "prompts for three, which is no image")
    refused(json.dumps({"one": ["a"]}), "no prompts for the image two")
    for wrong in (
        "a",
        [],
        [1],
        {"source": "a"},
        {"edits": []},
        {"edits": ["a"], "source": 1},
        {"edits": ["a"], "b": 1},
    ):
        refused(json.dumps({"one": ["a"], "two": wrong}), "two is not of the form")
    refused(
        json.dumps({"one": {"source": "a", "edits": ["a"]}, "two": ["a"]}), "some images have a source, and two has"
    )
    ImagesToProtect(str(folder), image_size=16).setup("predict")  # which reads none


def test_damaged_files_are_all_named_before_any_image_is_protected(folder: Path) -> None:
    (folder / "masks" / "two" / "unseen1.png").write_bytes(b"no image")
    whole = (folder / "images" / "one.png").read_bytes()
    (folder / "images" / "one.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UnreadableImage, match=r"one.png cannot be read .*unseen1.png cannot .*: replace or remove them$"
    ):
        ImagesToProtect(str(folder), image_size=16).setup("predict")


def test_photographs_are_turned_as_their_cameras_say(folder: Path) -> None:
    upright = Image.open(folder / "images" / "one.png")
    exif = upright.getexif()
    exif[0x0112] = 6  # the camera was held upright: its rows are columns
    (folder / "images" / "one.png").unlink()
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / "one.tiff", exif=exif)
    data = ImagesToProtect(str(folder), image_size=16)
    data.setup("test")
    assert data.test_set is not None
    found = data.test_set[Request(torch.tensor([0]), 0, 1)]["image"][0].permute(1, 2, 0).numpy()
    assert (found == np.array(upright.resize((16, 16)))).all()


def test_a_folder_that_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            ImagesToProtect(str(folder), image_size=16).setup("predict")

    Image.new("RGB", (20, 20)).save(folder / "images" / "one.jpg")
    refused(ValueError, "several images of the name one")
    (folder / "images" / "one.jpg").unlink()
    (folder / "masks" / "two" / "unseen1.png").unlink()
    refused(ValueError, "same number of unseen.*1 of one, 0 of two")
    (folder / "masks" / "one" / "seen.png").unlink()
    refused(FileNotFoundError, "no mask of one in .*masks; expected images/<name>.png")
    with pytest.raises(FileNotFoundError, match="no images in"):
        ImagesToProtect(str(tmp_path), image_size=16).setup("predict")
    with pytest.raises(ValueError, match="image_size must be a multiple of 8, got 20"):
        ImagesToProtect(str(folder), image_size=20)


def arguments(folder: Path, pipeline: Path) -> list[str]:
    return [
        *("--config", "configs/diffusionguard/stable_diffusion.yaml", "--data.data_dir", str(folder)),
        *("--data.image_size", "16", "--model.iterations", "3", "--model.inpainter.pipeline", str(pipeline)),
        *("--model.inpainter.num_inference_steps", "2", "--trainer.accelerator", "cpu"),
        *("--model.inpainter.gradient_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
    ]


def test_a_folder_is_protected_and_resumed(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = arguments(folder, pipeline)
    run = tmp_path / "run"
    assert train.main(["predict", *common, "--run_directory", str(run)]) == 0
    files = sorted((run / "protected").iterdir())
    assert [file.name for file in files] == ["one.png", "two.png"]
    given = np.array(Image.open(folder / "images" / "one.png").convert("RGB").resize((16, 16)), dtype=int)
    change = np.abs(np.array(Image.open(files[0]), dtype=int) - given)
    kept = np.array(Image.open(folder / "masks" / "one" / "seen.png").resize((16, 16))) > 127
    assert 0 < change[kept].max() <= 8
    assert change[~kept].max() == 0
    written = [file.read_bytes() for file in files]
    files[1].unlink()
    made = files[0].stat().st_mtime_ns
    assert train.main(["predict", *common, "--run_directory", str(run)]) == 0
    assert files[1].read_bytes() == written[1]
    assert files[0].stat().st_mtime_ns == made  # what is there is left alone
    capsys.readouterr()
    assert train.main(["predict", *common, "--model.epsilon", "0.01", "--run_directory", str(run)]) != 0
    assert "made with epsilon 0.03137254901960784, and this run has 0.01" in capsys.readouterr().err
    assert files[1].read_bytes() == written[1]


def test_a_folder_is_not_continued_with_another_inpainter_or_size(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run_directory", str(tmp_path / "run")]
    assert train.main(["predict", *arguments(folder, pipeline), *run]) == 0
    file = tmp_path / "run" / "protected" / "two.png"
    file.unlink()
    other = tmp_path / "other"
    shutil.copytree(pipeline, other)
    unet = UNet2DConditionModel.from_pretrained(other, subfolder="unet")
    unet.conv_out.bias.data[0] += 1
    unet.save_pretrained(other / "unet")
    rescheduled = tmp_path / "rescheduled"
    shutil.copytree(pipeline, rescheduled)
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_end=0.01).save_pretrained(rescheduled / "scheduler")
    for options, setting in [
        (["--model.inpainter.pipeline", str(other)], "hash_of_inpainter"),
        (["--model.inpainter.pipeline", str(rescheduled)], "hash_of_inpainter"),
        (["--data.image_size", "24"], "image_shape [3, 16, 16], and this run has [3, 24, 24]"),
        (["--trainer.precision", "bf16-mixed"], "precision '32-true', and this run has 'bf16-mixed'"),
    ]:
        capsys.readouterr()
        assert train.main(["predict", *arguments(folder, pipeline), *options, *run]) != 0
        assert f"holds was made with {setting}" in capsys.readouterr().err
        assert not file.exists()
    moved = tmp_path / "moved"
    shutil.copytree(pipeline, moved)  # the same weights in another folder are the same inpainter
    assert train.main(["predict", *arguments(folder, moved), *run]) == 0
    assert file.exists()


def test_other_images_of_the_same_names_are_not_taken_for_those_that_are_protected(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def protect(photos: Path) -> int:
        options = ["--data.evaluation_batch_size", "2", "--run_directory", str(run)]
        return train.main(["predict", *arguments(photos, pipeline), *options])

    assert protect(folder) == 0
    written = {file.name: file.read_bytes() for file in (run / "protected").iterdir()}
    for changed in ("images/two.png", "masks/two/seen_hand.png"):
        photos = tmp_path / Path(changed).stem
        shutil.copytree(folder, photos)
        pixels = np.array(Image.open(photos / changed))
        pixels[5, 5] = 255 - pixels[5, 5]
        pixels[:, 10] = 0
        Image.fromarray(pixels).save(photos / changed)
        capsys.readouterr()
        assert protect(photos) != 0
        assert f"{run / 'protected' / 'two.png'} was not made from what the data have" in capsys.readouterr().err
        assert {file.name: file.read_bytes() for file in (run / "protected").iterdir()} == written
    # What protection does not know may be another: masks of unseen editors, and images beside the one, with more masks.
    for name in ("images/two.png", "masks/two", "masks/one/unseen1.png", "prompts.json"):
        (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)
    assert protect(folder) == 0


def test_what_predict_says_last_is_where_the_images_are(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    printed = command("predict", *arguments(folder, pipeline), "--run_directory", tmp_path / "run")
    assert "predict returned None" not in printed
    assert f"Protected images: {tmp_path / 'run' / 'protected'}" in printed.splitlines()[-2:]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_leaves_the_rest_of_an_image_alone(
    folder: Path, pipeline: Path, tmp_path: Path, precision: str
) -> None:
    common = [*arguments(folder, pipeline), "--trainer.precision", precision]
    assert train.main(["predict", *common, "--run_directory", str(tmp_path)]) == 0
    given = np.array(Image.open(folder / "images" / "one.png").resize((16, 16)), dtype=int)
    change = np.abs(np.array(Image.open(tmp_path / "protected" / "one.png"), dtype=int) - given)
    kept = np.array(Image.open(folder / "masks" / "one" / "seen.png").resize((16, 16))) > 127
    assert 0 < change[kept].max() <= 8
    assert change[~kept].max() == 0
    assert train.main(["test", *common, "--run_directory", str(tmp_path / "test")]) == 0
    metrics = pd.read_csv(tmp_path / "test" / "test_metrics.csv").set_index("metric")["value"]
    assert np.isfinite(metrics).all()
    digits = metrics["test/edit_psnr"] * 4
    assert digits != round(digits)  # bfloat16 has quarters there


def test_edits_are_compared_with_their_prompts(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    prompts = {"one": {"source": "a", "edits": ["a cat", "a"]}, "two": {"source": "dog", "edits": ["cat"]}}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    clip = save_tiny_clip(tmp_path / "clip")
    assert (
        train.main(["test", *arguments(folder, pipeline), "--run_directory", str(tmp_path), "--model.clip", str(clip)])
        == 0
    )
    metrics = pd.read_csv(tmp_path / "test_metrics.csv").set_index("metric")["value"]
    clip_names = [
        f"test/{name}{of}{mask}"
        for name in ("clip_similarity", "clip_directional_similarity")
        for of in ("", "_unprotected")
        for mask in ("", "_unseen")
    ]
    edits = [
        f"test/{name}{mask}" for name in ("edit_psnr", "edit_psnr_repainted", "edit_ssim") for mask in ("", "_unseen")
    ]
    assert set(metrics.index) == {*clip_names, *edits, "test/noise_norm", "test/noise_norm_unprotected"}
    assert np.isfinite(metrics).all()
    assert metrics[clip_names].abs().max() <= 1
    assert (tmp_path / "figures" / "protection.png").stat().st_size > 0


def test_what_is_compared_is_the_mean_over_edits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against the definitions, with the embeddings of a tiny CLIP model, in float64."""
    image, regions, index = (each[:2] for each in images())
    image = image.expand(-1, 3, -1, -1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    regions = regions.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    keep = regions.any(dim=1, keepdim=True)
    batch: Any = {"image": image, "regions": regions, "editor_keeps": keep, "index": index, "name": ["", ""]}
    batch |= {"prompt": [["a", "cat"], ["dog"]], "source_prompt": ["dog", "a cat"], "global_size": 2}
    inpainter = LinearInpainter()
    guard = DiffusionGuard(inpainter, objective="random", epsilon=0.2, clip=str(save_tiny_clip(tmp_path / "clip")))
    guard.setup("test")
    monkeypatch.setattr(guard, "_first_step", lambda image, *_: image)
    shown = guard.test_step(batch, 0)
    clip, guarded = CLIP(str(tmp_path / "clip")), guard.protect(image, regions, index)
    torch.testing.assert_close(shown["protected"], guarded)
    psnr, similar, directed = [], [], []
    for row, prompt in ((0, "a"), (1, "dog"), (0, "cat")):
        edit, before = (
            inpainter.edit(each[row : row + 1], keep[row : row + 1].double(), [prompt], each)[0]
            for each in (guarded, image)
        )
        psnr.append(-10 * np.log10((edit - before).square().mean().item()))
        e, x = clip.images(edit[None])[0].double().numpy(), clip.images(image[row : row + 1])[0].double().numpy()
        t, s = clip.texts([prompt, batch["source_prompt"][row]]).double().numpy()
        similar.append(e @ t)
        directed.append((e - x) @ (t - s) / np.linalg.norm(e - x) / np.linalg.norm(t - s))
    for name, expected in (
        ("edit_psnr", psnr), ("clip_similarity", similar), ("clip_directional_similarity", directed)
    ):  # fmt: skip
        assert float(guard._metric(name).compute()) == pytest.approx(np.mean(expected), abs=1e-4)


def test_comparing_needs_prompts(folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "prompts.json").unlink()
    clip = save_tiny_clip(tmp_path / "clip")
    settings = [*arguments(folder, pipeline), "--run_directory", str(tmp_path / "run"), "--model.clip"]
    assert train.main(["test", *settings, str(clip)]) != 0
    assert "the data have none" in capsys.readouterr().err
    assert train.main(["test", *settings, str(tmp_path / "none")]) != 0
    assert "none is no CLIP model" in capsys.readouterr().err


def test_ssim_is_that_of_its_definition() -> None:
    """Mean, variance and covariance in Gaussian windows, by hand."""
    one, two = torch.rand(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    x, y = (
        np.lib.stride_tricks.sliding_window_view(np.pad(image[0, 0].numpy(), 5, mode="reflect"), (11, 11))
        for image in (one, two)
    )

    def mean(values: np.ndarray) -> np.ndarray:
        return (window * values).sum(axis=(2, 3))

    mx, my = mean(x), mean(y)
    vx, vy, xy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * xy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(ssim(one, two)) == pytest.approx(expected.mean(), abs=1e-9)


def test_psnr_where_the_editor_repaints_leaves_out_what_it_keeps() -> None:
    one, two = torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    where = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    where[:2, :, 2:5, 3:] = 1
    two[1] = one[1] + 0.01
    kept = torch.where(where.bool(), two, 5.0)  # which changes nothing
    found = psnr_where(one, kept, where)
    expected = -10 * np.log10(np.square((one - two)[0, :, 2:5, 3:].numpy()).mean())
    assert float(found[0]) == pytest.approx(expected, abs=1e-9)
    assert float(found[1]) == pytest.approx(40, abs=1e-9)
    assert found[2].isnan()


def test_the_demos_models_train_without_weight_decay() -> None:
    """A default of the module's optimizer would go into the config's: this once emptied the demo's network."""
    for config in sorted(Path("configs/diffusionguard").glob("demo*.yaml")):
        line = CommandLine(["fit", "--config", str(config)], run=False)
        (optimizer,), _ = line.model.configure_optimizers()
        assert optimizer.param_groups[0]["weight_decay"] == 0


# arguments, and digits


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 0.0),
        ("step_size", 2.0),
        ("iterations", 0),
        ("gradient_repeats", 0),
        ("editor_steps", 0),
        ("timestep", 1000),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        DiffusionGuard(LinearInpainter(), **{key: value})


def test_the_first_test_digits_may_be_taken_alone() -> None:
    few, all_of_them = MaskedDigits(seed=3, num_test_images=5), MaskedDigits(seed=3)
    for data in (few, all_of_them):
        data.setup("test")
    batches = [next(iter(data.test_dataloader())) for data in (few, all_of_them)]
    assert len(batches[0]["image"]) == len(few.test_dataloader().dataset) == 5  # type: ignore[arg-type]
    for key in ("image", "index"):
        assert torch.equal(batches[0][key], batches[1][key][:5])
    with pytest.raises(ValueError, match="num_test_images must be at least 1, got 0"):
        MaskedDigits(num_test_images=0)


def test_digits_have_their_names_on_any_device() -> None:
    data = MaskedDigits(num_test_images=3, evaluation_batch_size=2)
    data.setup("predict")
    loader = data.predict_dataloader()
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(dtype=torch.float32))  # type: ignore[assignment]
    for batch, names in zip(loader, (["00000", "00001"], ["00002"]), strict=True):
        on_host = data.on_before_batch_transfer(batch, 0)
        moved = data.transfer_batch_to_device(on_host, torch.device("meta"), 0)
        batch = data.on_after_batch_transfer(moved, 0)
        assert batch["image"].device.type == batch["regions"].device.type == "meta"
        assert batch["name"] == names
