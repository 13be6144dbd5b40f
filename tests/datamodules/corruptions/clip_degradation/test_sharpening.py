import numpy as np
import torch
from scipy.ndimage import correlate1d

from datamodules.corruptions.clip_degradation.sharpening import UnsharpMask, unsharp_masked


def by_hand(image: np.ndarray) -> np.ndarray:
    place = np.arange(-25, 26)
    tap = np.exp(-(place**2) / 128)
    tap /= tap.sum()

    def blurred(values: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(values, tap, axis=-2, mode="mirror"), tap, axis=-1, mode="mirror")

    residual = image - blurred(image)
    mask = blurred((np.abs(residual) * 255 > 10).astype(float))
    return mask * np.clip(image + 0.5 * residual, 0, 1) + (1 - mask) * image


def test_frames_are_sharpened_where_they_differ_from_their_blur() -> None:
    clip = torch.rand(2, 3, 3, 30, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clip[..., :40] = 0.5
    sharp = unsharp_masked(clip)
    np.testing.assert_allclose(sharp, by_hand(clip.numpy()), atol=1e-12)
    torch.testing.assert_close(unsharp_masked(clip[0, 0]), sharp[0, 0])
    assert sharp[..., 40:].std() > clip[..., 40:].std()
    assert (sharp.min() >= 0, sharp.max() <= 1) == (True, True)


def test_the_operator_draws_nothing() -> None:
    clip, random = torch.rand(2, 1, 20, 20), np.random.default_rng(0)
    torch.testing.assert_close(UnsharpMask().apply(clip, random, (5, 5)), unsharp_masked(clip))
    assert random.random() == np.random.default_rng(0).random()
