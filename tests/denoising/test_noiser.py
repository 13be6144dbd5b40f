from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.denoising.noiser import (
    Enhancer,
    NoiSER,
    aligned_psnr,
    colour_images,
    contrast_error,
    grey_error,
    noise_images,
    simple_corrections,
    squared_variation,
)
from lightning_modules.metrics.image_quality import psnr


def enhancer(**more: Any) -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(**more).double()


@pytest.mark.parametrize(("hidden", "numbers"), [(32, 1763), (18, 993)])
def test_the_network_is_as_small_as_the_papers(hidden: int, numbers: int) -> None:
    assert sum(parameter.numel() for parameter in Enhancer(hidden=hidden).parameters()) == numbers


def test_the_network_is_what_is_written_out() -> None:
    network = enhancer(hidden=4)
    image = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    first, second = network[0], network[3]
    x = F.conv2d(image, first.weight, first.bias, padding=1)
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = (x - mean) / ((x - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()
    x = x * (1 + torch.erf(x / 2**0.5)) / 2
    torch.testing.assert_close(network(image), F.conv2d(x, second.weight, second.bias, padding=1).tanh())


def test_brightness_and_contrast_of_the_whole_image_are_taken_away() -> None:
    """Convolutions pad with zeros, so borders differ; the means of the centres are nearly equal."""
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 40, 40, generator=random, dtype=torch.float64)
    for normalized, alike in ((True, True), (False, False)):
        module = NoiSER(enhancer(normalized=normalized))
        light, dark = (module.restore(scale * image)[..., 2:-2, 2:-2] for scale in (1.0, 0.3))
        assert (light.mean() - dark.mean()).abs().lt(0.02) == alike


def test_an_image_of_one_colour_stays_finite() -> None:
    assert NoiSER(enhancer()).restore(torch.full((1, 3, 12, 12), 0.2, dtype=torch.float64)).isfinite().all()


def test_the_variation_of_a_step_is_its_square_over_the_width() -> None:
    assert squared_variation(torch.full((2, 3, 5, 6), 0.7)) == 0
    step = torch.zeros(1, 1, 5, 8, dtype=torch.float64)
    step[..., 3:] = 0.4
    assert squared_variation(step).item() == pytest.approx(0.4**2 / 8)


def test_noise_is_clamped_and_mostly_saturated() -> None:
    torch.manual_seed(0)
    image = noise_images(torch.empty(4, 3, 104, 104), 0.0, 3.0)
    assert image.abs().max() == 1
    assert (image.abs() == 1).double().mean().item() == pytest.approx(0.7389, abs=0.01)  # P(|3 n| >= 1)
    assert noise_images(torch.empty(4, 3, 50, 50), 0.5, 3.0).mean() > 0.05


def test_colours_are_constant_over_an_image_or_a_block() -> None:
    torch.manual_seed(0)
    whole = colour_images(torch.empty(2, 3, 10, 12), None)
    assert torch.equal(whole, whole[..., :1, :1].expand_as(whole))
    blocks = colour_images(torch.empty(2, 3, 10, 12), 4)
    assert torch.equal(blocks[..., 4:8, 8:12], blocks[..., 4:5, 8:9].expand(2, 3, 4, 4))
    assert len(blocks[0, 0].unique()) == 9
    assert blocks.abs().max() <= 1


def test_alignment_takes_a_factor_of_the_brightness_away() -> None:
    clean = torch.rand(2, 3, 8, 8, dtype=torch.float64) * 0.5
    assert (aligned_psnr(0.4 * clean, clean, "unclipped") > 200).all()
    other = 0.4 * clean + 0.01
    found = aligned_psnr(other, clean, "unclipped")
    factor = clean.mean(dim=(1, 2, 3), keepdim=True) / other.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, psnr(other * factor, clean, "unclipped"))


def test_grey_and_contrast_errors_and_corrections_are_their_formulas() -> None:
    torch.manual_seed(0)
    clean = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    half = 0.5 * clean
    means = clean.mean(dim=(2, 3))
    torch.testing.assert_close(grey_error(half, clean, "unclipped"), (0.5 * means - 0.5).abs().mean(dim=1))
    torch.testing.assert_close(contrast_error(half, clean, "unclipped"), torch.full((2,), 2.0).double().log())
    assert contrast_error(torch.full_like(clean, 0.3), clean, "unclipped").isfinite().all()
    found = simple_corrections(half)
    torch.testing.assert_close(found["gamma"] ** 2.2, half)
    assert found["stretched"].amin() == 0
    assert found["stretched"].amax() == 1
    scaled = clean - clean.amin(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(found["stretched"], scaled / scaled.amax(dim=(2, 3), keepdim=True))
    levels = torch.arange(16.0).repeat(255).reshape(1, 1, 60, 68)  # sixteen levels, all equally frequent
    torch.testing.assert_close(simple_corrections(levels / 255)["equalized"], levels / 15)
    module = NoiSER(enhancer(hidden=4), simple_baselines=True)
    noisy = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    module.test_step({"noisy": noisy, "clean": noisy, "index": torch.tensor([0]), "global_batch_size": 1}, 0)
    [logged] = module.quality.means().values()
    assert {"grey_error", "noisy_contrast_error", "gamma_psnr", "equalized_ssim", "stretched_psnr"} <= set(logged)


@pytest.mark.parametrize("source", ["noise", "colour", "palette"])
def test_value_and_gradient_of_a_step_are_the_equation(source: Any) -> None:
    module, twin = NoiSER(enhancer(hidden=4), source=source, variation_weight=0.7), enhancer(hidden=4)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    blank = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(1)
    loss = module.training_step({"noisy": blank, "index": torch.arange(2), "global_batch_size": 2}, 0)["loss"]
    torch.manual_seed(1)
    image = {
        "noise": lambda: (3 * torch.randn_like(blank)).clamp(-1, 1),
        "colour": lambda: (2 * torch.rand(2, 3, 1, 1, dtype=torch.float64) - 1).expand_as(blank),
        "palette": lambda: F.interpolate(2 * torch.rand(2, 3, 2, 2, dtype=torch.float64) - 1, scale_factor=8.0),
    }[source]()
    y: Tensor = twin(image)
    variation = (y[:, :, 1:] - y[:, :, :-1]).pow(2).sum() + (y[..., 1:] - y[..., :-1]).pow(2).sum()
    expected = (y - image).abs().sum() / y.numel() + 0.7 * variation / y.numel()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for one, other in zip(module.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)
