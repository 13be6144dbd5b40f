import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from lightning_modules.views.byol import AffineJitter, BYOLView, Solarize, gaussian_blur


def test_blur_is_that_of_scipy_and_each_image_has_its_own() -> None:
    image, sigma = torch.rand(3, 2, 12, 10, dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0])
    found = gaussian_blur(image, sigma, radius=6)
    for each, own, width in zip(found, image, sigma.tolist(), strict=True):
        expected = own.numpy()
        for axis in (1, 2):
            expected = gaussian_filter1d(expected, width, axis=axis, radius=6, mode="mirror")
        np.testing.assert_allclose(each, expected, atol=1e-6)


def test_solarising_inverts_what_is_bright() -> None:
    image = torch.tensor([0.1, 0.5, 0.8]).view(1, 1, 1, 3)
    torch.testing.assert_close(Solarize(1.0)(image).flatten(), torch.tensor([0.1, 0.5, 0.2]))
    assert torch.equal(Solarize(0.0)(image), image)


def test_views_stay_in_range_and_differ_from_image_to_image() -> None:
    photographs, drawings = torch.rand(6, 3, 32, 32), torch.rand(1, 1, 8, 8).expand(6, -1, -1, -1)
    for view, image in ((BYOLView(1.0, 0.2), photographs), (AffineJitter(), drawings)):
        seen = view(image)
        assert seen.shape == image.shape
        assert 0 <= seen.min() <= seen.max() <= 1
        assert len(seen.flatten(1).unique(dim=0)) == 6
    torch.testing.assert_close(AffineJitter(0.0, 0.0, 0.0)(drawings), drawings)


def test_a_jitter_turns_about_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 1, 8, 8)
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.tensor([1.0, 0.5, 0.5, 0.5])[:, None])
    torch.testing.assert_close(AffineJitter(degrees=90.0)(image), image.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    monkeypatch.setattr(torch, "rand", lambda *size, **kwargs: torch.tensor([0.5, 0.5, 1.0, 0.5])[:, None])
    shifted = AffineJitter(shift=2.0)(image)
    torch.testing.assert_close(shifted[..., :6], image[..., 2:], atol=1e-5, rtol=0)
