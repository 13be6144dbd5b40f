import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d

from datamodules.corruptions.operators import AverageDownsampling, Bicubic, Blur

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_means_of_blocks_are_those_of_pooling_and_the_inverse_repeats_them() -> None:
    operator = AverageDownsampling(4)
    torch.testing.assert_close(operator.forward(IMAGE), F.avg_pool2d(IMAGE, 4))
    small = F.avg_pool2d(IMAGE, 4)
    repeated = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(operator.pseudo_inverse(small), repeated)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_reduction_is_a_correlation_with_reflected_borders(factor: int) -> None:
    """SciPy's `reflect` repeats the border pixel; the kernel has even length, so it is half a pixel to the left."""
    offset = np.abs(np.arange(4 * factor) - 2 * factor + 0.5) / factor
    kernel = np.where(
        offset <= 1, 1.5 * offset**3 - 2.5 * offset**2 + 1, -0.5 * offset**3 + 2.5 * offset**2 - 4 * offset + 2
    )
    expected = IMAGE.numpy()
    for axis in (2, 3):
        expected = correlate1d(expected, kernel / kernel.sum(), axis=axis, mode="reflect")
        expected = np.take(expected, np.arange(factor // 2, expected.shape[axis], factor), axis=axis)
    np.testing.assert_allclose(Bicubic(factor).forward(IMAGE).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("taps", "deviation"), [(5, 25.0), (9, float("inf")), (3, 0.4)])
def test_the_blur_is_the_same_correlation_in_every_channel_but_for_small_singular_values(
    taps: int, deviation: float
) -> None:
    kernel = np.exp(-0.5 * (np.arange(taps) - taps // 2) ** 2 / deviation**2)
    kernel /= kernel.sum()
    operator = Blur(taps, deviation)
    matrix = correlate1d(np.eye(16), kernel, axis=0, mode="constant")
    np.testing.assert_allclose(operator.matrix(16), matrix, atol=1e-15)
    expected = correlate1d(correlate1d(IMAGE.numpy(), kernel, axis=2, mode="constant"), kernel, axis=3, mode="constant")
    found = operator.forward(IMAGE).numpy()
    lost = np.abs(found - expected).max()
    assert lost < 0.03 * IMAGE.numpy().max() * 24  # the contribution of the singular values below 0.03
    if deviation == 0.4:  # no singular value is that small
        assert lost < 1e-12
    by_channel = torch.stack([operator.forward(IMAGE[:, c : c + 1])[:, 0] for c in range(3)], dim=1)
    torch.testing.assert_close(operator.forward(IMAGE), by_channel)


def test_small_singular_values_do_not_enlarge_noise() -> None:
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(Blur(5).pseudo_inverse(noise).norm() / noise.norm()) < 1 / 0.03**2


def test_the_operator_serves_gradients_after_it_was_first_used_in_inference_mode() -> None:
    operator = AverageDownsampling(8)
    with torch.inference_mode():
        operator.forward(IMAGE)
    image = IMAGE.clone().requires_grad_(True)
    operator.forward(image).square().sum().backward()
    assert image.grad is not None
