from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from datamodules.corruptions.image_noise import CounterRNG, Sensor
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.denoising.eld import ELD, corrected_psnr, corrected_ssim, illuminance_corrected, preview, srgb
from lightning_modules.networks.sid_unet import SIDUNet


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Affine(nn.Module):
    """F(y) = a y + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.8, 0.1))

    def forward(self, image: Tensor) -> Tensor:
        return self.a * image + self.b


def test_value_and_gradient_of_a_step_are_the_equation() -> None:
    """Inputs are clipped to [0, 1]; outputs are not."""
    module, clean = ELD(Affine()), images(0, 2, 4, 5, 6)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    noisy = 4 * images(1, 2, 4, 5, 6) - 1.5
    batch: Any = {"noisy": noisy, "clean": clean, "index": torch.arange(2), "global_batch_size": 2}
    loss = module.training_step(batch, 0)["loss"]
    loss.backward()
    clipped = np.clip(noisy.numpy(), 0, 1)
    error = 0.8 * clipped + 0.1 - clean.numpy()
    assert float(loss.detach()) == pytest.approx(np.abs(error).mean(), abs=1e-14)
    network: Any = module.network
    assert float(network.a.grad) == pytest.approx((np.sign(error) * clipped).mean(), abs=1e-14)
    assert float(network.b.grad) == pytest.approx(np.sign(error).mean(), abs=1e-14)


def test_the_correction_is_least_squares_over_what_is_not_saturated() -> None:
    """The illuminance correction fits a factor for each image to the pixels that are not saturated."""
    clean = 0.9 * images(0, 3, 4, 8, 8)
    clean[:, 1, :3] = 1
    estimate = 0.7 * clean + 0.1 * images(1, 3, 4, 8, 8)
    corrected = illuminance_corrected(estimate, clean)
    for x, p, found in zip(clean.numpy(), estimate.numpy(), corrected.numpy(), strict=True):
        factor = np.linalg.lstsq(p[x != 1][:, None], x[x != 1], rcond=None)[0][0]
        np.testing.assert_allclose(found, factor * p, atol=1e-12)
    torch.testing.assert_close(illuminance_corrected(0.3 * estimate, clean), corrected)
    torch.testing.assert_close(illuminance_corrected(clean, clean), clean)
    inside = 0.5 * clean  # the corrections of these images stay below 1
    once = illuminance_corrected(0.7 * inside + 0.1 * images(1, 3, 4, 8, 8), inside)
    torch.testing.assert_close(illuminance_corrected(once, inside), once)
    torch.testing.assert_close(illuminance_corrected(2 * clean - 0.5, clean), illuminance_corrected(
        (2 * clean - 0.5).clamp(0, 1), clean))  # fmt: skip
    assert not illuminance_corrected(torch.zeros_like(clean), clean).any()


def test_measures_are_scikit_images_defaults_on_the_corrected_image_of_256_levels_unrounded() -> None:
    clean = images(0, 2, 4, 20, 16)
    clean[:, 0, :4] = 1
    estimate = (0.6 * clean + 0.15 * images(1, 2, 4, 20, 16)).float()
    found = [measure(estimate, clean.float()) for measure in (corrected_psnr, corrected_ssim)]
    for row in range(2):
        x = clean[row].float().double().numpy().transpose(1, 2, 0) * 255
        double = estimate.double(), clean.float().double()
        p = illuminance_corrected(*double)[row].numpy().transpose(1, 2, 0).clip(0, 1) * 255
        assert float(found[0][row]) == pytest.approx(peak_signal_noise_ratio(x, p, data_range=255), abs=1e-5)
        expected = structural_similarity(x, p, data_range=255, channel_axis=2)
        assert float(found[1][row]) == pytest.approx(expected, abs=1e-10)


def test_the_light_factor_cancels_but_for_noise_and_clipping() -> None:
    """Noise of the same gain in the darkened image grows in proportion to f in the output; inputs are clipped at 1."""
    clean = torch.full((200, 4, 8, 8), 0.6, dtype=torch.float64)
    deviations = []
    for factor in (50.0, 200.0):
        noise = Sensor(light_factors=(factor, factor), colour_bias=False, model="gaussian")
        noisy = noise.sample(clean, CounterRNG(0, 0, torch.arange(200)))
        deviations.append((noisy - clean) / factor)
    torch.testing.assert_close(*deviations, rtol=0, atol=1e-12)
    module = ELD(nn.Identity())
    assert module.restore(torch.full((1, 4, 16, 16), 3.0)).max() == 1
    assert module.restore(torch.full((1, 4, 16, 16), -3.0)).max() == 0


def test_tiles_restore_what_the_whole_image_gives() -> None:
    torch.manual_seed(0)
    network, noisy = SIDUNet(widths=[2, 3]).double(), 2 * images(2, 1, 4, 70, 60) - 0.5
    tiled = ELD(network, TiledInference(tile=40, overlap=18)).restore(noisy)
    torch.testing.assert_close(tiled, ELD(network).restore(noisy), rtol=0, atol=1e-12)


def test_previews_balance_the_colours_by_the_reference() -> None:
    reference = torch.tensor([0.1, 0.4, 0.2, 0.6]).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    grey = preview(reference, reference)
    torch.testing.assert_close(grey, torch.full((2, 3, 3, 3), 0.5 ** (1 / 2.2)))
    assert preview(5 * reference, reference).max() == 1
    module = ELD(nn.Identity())
    columns = module.image_columns({"noisy": reference, "clean": reference, "index": torch.arange(2)}, None)  # type: ignore[typeddict-item]
    assert torch.equal(columns["estimate"], grey)  # type: ignore[arg-type]


def test_files_of_cameras_are_shown_in_their_colours() -> None:
    torch.manual_seed(0)
    raw = 1.2 * torch.rand(2, 4, 3, 3, dtype=torch.float64) - 0.1
    rendering = torch.rand(2, 4, 3, dtype=torch.float64) + torch.tensor([1, 0.5, 0.5, 0.5]).view(1, 4, 1)
    for picture, packed, (gain, *matrix) in zip(srgb(raw, rendering), raw, rendering.tolist(), strict=True):
        red, green, blue, other = (packed * torch.tensor([*gain, gain[1]]).view(4, 1, 1)).clamp(0, 1)
        colours = (red, (green + other) / 2, blue)
        for channel, row in zip(picture, matrix, strict=True):
            linear = sum(weight * colour for weight, colour in zip(row, colours, strict=True)).clamp(0, 1)
            torch.testing.assert_close(channel, (255 * linear ** (1 / 2.2)).floor() / 255)
    module = ELD(nn.Identity())
    batch = {"noisy": raw.clamp(0, 1), "clean": raw.clamp(0, 1), "rendering": rendering, "index": torch.arange(2)}
    assert torch.equal(module.image_columns(batch, None)["estimate"], srgb(raw.clamp(0, 1), rendering))  # type: ignore[arg-type]
    wide = torch.rand(2, 9, 4, 4, dtype=torch.float64)
    of_colour = {"R": (0, 3), "G": (1, 5, 6, 7, 8), "B": (2, 4)}
    neutral = torch.cat([torch.ones(2, 1, 3), torch.eye(3).expand(2, 3, 3)], dim=1).double()
    means = torch.stack([wide[:, list(places)].mean(dim=1) for places in of_colour.values()], dim=1)
    torch.testing.assert_close(srgb(wide, neutral), (255 * means ** (1 / 2.2)).floor() / 255)
    assert preview(wide, wide).shape == (2, 3, 4, 4)
