from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DModel
from torch import Tensor, nn

from lightning_modules.robustness.diffusion_guard.inpainting import PixelInpainter, StableDiffusionInpainter
from tests.robustness.diffusion_guard.linear_inpainter import LinearInpainter, guarding, images


@pytest.mark.parametrize("scheduler", [PNDMScheduler, DDIMScheduler])
def test_the_first_of_four_steps(scheduler: Any) -> None:
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    inpainter = LinearInpainter()
    inpainter.scheduler = scheduler(steps_offset=1, **options)
    assert inpainter.first_timestep(4) == 751
    assert inpainter.first_timestep(50) == 981
    assert guarding(inpainter).defence.timestep == 751
    assert guarding(inpainter, timestep=5).defence.timestep == 5


class Oracle(nn.Module):
    """Returns the exact noise of one clean image at each timestep."""

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
        """The noise of the first step remains; after the last step, it has the lowest level of the schedule."""
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
    guard = guarding(PixelInpainter(network), iterations=1)
    image, regions, index = images(1)
    assert guard.protect(image.float(), regions, index).shape == image.shape
    with pytest.raises(ValueError, match=r"3 channels need .* in_channels 7 \(.*\) and out_channels 3, .* 3 and 1$"):
        guard.protect(image.float().expand(-1, 3, -1, -1), regions, index)


def test_a_saved_pipeline_is_frozen_and_asked_for_its_text_once(pipeline: Path) -> None:
    inpainter = StableDiffusionInpainter(str(pipeline), num_inference_steps=2)
    image = torch.rand(2, 3, 16, 16)
    regions = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    regions[:, :, 2:12, 3:13] = True
    calls: list[int] = []
    inpainter.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    guard = guarding(inpainter, iterations=3, epsilon=0.1, step_size=0.05)
    assert guard.defence.timestep == 751
    assert inpainter.noise_shape(image) == (2, 4, 8, 8)
    guarded = guard.protect(image, regions, torch.arange(2))
    assert 0 < (guarded - image).abs().max() <= 0.1 + 1e-6
    assert len(calls) == 1
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in guard.parameters())
    guard.train()
    assert not inpainter.network.training
    with pytest.raises(ValueError, match="has no trainable parameters"):
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
    torch.testing.assert_close(torch.cat(seen), 2 * inpainter.blank(image, keep) - 1)


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


def test_a_pipeline_that_does_not_fit_is_named(text_to_image: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pipeline at"):
        StableDiffusionInpainter(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has 4 input channels, but an inpainting model has 9"):
        StableDiffusionInpainter(str(text_to_image))
