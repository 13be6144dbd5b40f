import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from skimage.data import astronaut, camera
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from datamodules.distributed.collectives import rank
from lightning_modules.metrics.image_quality import PROTOCOLS, EvaluationProtocol, ImageQuality, as_measured, psnr, ssim
from tests.two_processes import in_two_processes


def photographs(size: int = 96) -> Tensor:
    """Return colour photographs, `[2, 3, S, S]`."""
    colour = torch.from_numpy(astronaut()).permute(2, 0, 1)
    return torch.stack([colour[:, :size, 200 : 200 + size], colour[:, 100 : 100 + size, 50 : 50 + size]]) / 255


def noisy(clean: Tensor, sigma: float) -> Tensor:
    return clean + sigma / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def measured_by_scikit_image(image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> tuple[float, float]:
    """Compute both measures of one image in float64; scikit-image recommends these arguments to match Wang et al."""
    one, other = (each.double().permute(1, 2, 0).numpy() * 255 for each in (image, clean))
    if protocol != "unclipped":
        one = one.clip(0, 255)
    if protocol == "rounded":
        one = np.round(one)
    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, similarity = structural_similarity(other, one, data_range=255, channel_axis=2, **options)
    return peak_signal_noise_ratio(other, one, data_range=255), similarity[5:-5, 5:-5].mean()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_measures_are_those_of_scikit_image(protocol: EvaluationProtocol, channels: int) -> None:
    clean = photographs()[:, :channels]
    image = noisy(clean, 40)
    found = psnr(image, clean, protocol), ssim(image, clean, protocol)
    assert all(each.dtype == torch.float64 and each.shape == (2,) for each in found)
    for row in range(2):
        expected = measured_by_scikit_image(image[row], clean[row], protocol)
        assert [float(each[row]) for each in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("sigma", "expected"), [(15, 24.61), (25, 20.17), (50, 14.15)])
def test_noise_of_a_deviation_has_its_psnr(sigma: float, expected: float) -> None:
    clean = torch.from_numpy(camera())[None, None] / 255
    assert float(psnr(noisy(clean, sigma), clean, "unclipped")) == pytest.approx(expected, abs=0.02)


def test_squares_are_averaged_over_channels_and_images_measured_apart() -> None:
    clean = torch.full((2, 3, 12, 12), 0.5)
    image = clean.clone()
    image[0, 0] += 51 / 255
    image[1] += 102 / 255
    expected = [-10 * math.log10(0.2**2 / 3), -10 * math.log10(0.4**2)]
    assert psnr(image, clean, "clipped").tolist() == pytest.approx(expected, abs=1e-5)
    assert psnr(clean, clean, "clipped").tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_rounding_reaches_the_clean_image_whose_own_copy_is_perfect(measure: Any) -> None:
    """Both images are rounded, as `img_as_ubyte` does in published code for SIDD."""
    clean = photographs() * 0.999
    files = [(255 * each).round() / 255 for each in (noisy(clean, 40).clamp(0, 1), clean)]
    found, expected = measure(noisy(clean, 40), clean, "rounded"), measure(*files, "unclipped")
    torch.testing.assert_close(found, expected, rtol=5e-6, atol=0)  # single precision, on any processor
    assert measure(files[1], clean, "rounded").tolist() == [math.inf if measure is psnr else 1] * 2
    assert (measure(files[1], clean, "clipped") < (math.inf if measure is psnr else 1)).all()


def test_autocast_does_not_reach_the_measures() -> None:
    clean = photographs()
    image = noisy(clean, 5)
    plain = psnr(image, clean), ssim(image, clean)
    with torch.autocast("cpu", torch.bfloat16):
        found = psnr(image, clean), ssim(image, clean)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_levels_are_those_of_a_file() -> None:
    image = torch.tensor([-0.2, 0.4999 / 255, 0.5001 / 255, 1.3])
    assert as_measured(image, "rounded").mul(255).tolist() == [0, 0, 1, 255]
    assert as_measured(image, "clipped").tolist() == pytest.approx([0, 0.4999 / 255, 0.5001 / 255, 1])
    assert as_measured(image, "unclipped").tolist() == image.double().tolist()


SETS = ("first", "second")


def measured(quality: ImageQuality, rows: list[int]) -> None:
    """Measure some of the three images of the first set, and (in every process) all images of the second set."""
    clean = torch.cat([photographs(16), photographs(20)[:1, :, 2:18, 2:18]])
    index = torch.tensor(rows)
    names = [f"{row}.png" for row in rows]
    for row in range(len(rows)):
        part = slice(row, row + 1)
        chosen = index[part]
        quality.update(noisy(clean, 50)[chosen], noisy(clean, 20)[chosen], clean[chosen], chosen, names[part])
    quality.update(clean[:1], clean[:1] * 0.9, clean[:1], index.new_zeros(1), ["other.png"], loader=1)


def test_a_set_has_a_row_for_each_image_and_the_mean_of_them() -> None:
    quality = ImageQuality()
    measured(quality, [2, 0, 1])
    means = quality.means(SETS)
    assert [(row["set"], row["index"], row["name"]) for row in quality.table] == [
        *(("first", row, f"{row}.png") for row in range(3)),
        ("second", 0, "other.png"),
    ]
    for key in ("psnr", "ssim", "noisy_psnr", "noisy_ssim"):
        assert means["first"][key] == pytest.approx(np.mean([row[key] for row in quality.table[:3]]), abs=1e-12)
    assert means["first"]["psnr"] > means["first"]["noisy_psnr"]
    assert quality.means() == {}


def means_of_a_share() -> dict[str, dict[str, float]]:
    """Measure the images of this process; the image with index 1 belongs to both processes."""
    dist.init_process_group("gloo")
    quality = ImageQuality()
    measured(quality, [[2, 1], [0, 1]][rank()])
    return quality.means(SETS)


def test_means_are_the_same_to_the_last_bit_over_two_processes() -> None:
    quality = ImageQuality()
    measured(quality, [0, 1, 2])
    expected = quality.means(SETS)
    assert in_two_processes(means_of_a_share) == [expected, expected]


def test_single_precision_is_enough_for_the_structural_similarity() -> None:
    random = torch.Generator().manual_seed(3)
    clean = torch.rand(1, 3, 8, 8, generator=random).repeat_interleave(12, dim=2).repeat_interleave(12, dim=3)
    image = clean + 0.05 * torch.randn(clean.shape, generator=random)
    torch.testing.assert_close(ssim(image, clean), ssim(image.double(), clean.double()), rtol=0, atol=1e-5)


def test_the_structural_similarity_of_images_smaller_than_its_window_is_left_out() -> None:
    quality = ImageQuality()
    small = torch.rand(2, 1, 8, 8)
    quality.update(small, small, small, torch.arange(2), ["a", "b"])
    assert set(quality.means()[""]) == {"psnr", "noisy_psnr"}
