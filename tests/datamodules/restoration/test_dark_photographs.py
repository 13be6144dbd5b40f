import numpy as np
import pytest

from datamodules.restoration.blank import Blank
from datamodules.restoration.dark_photographs import WHITE, DarkPhotographs, OverExposedPhotographs


def test_dark_photographs_follow_the_law_of_their_darkness() -> None:
    images = DarkPhotographs(exposure=0.2, exponent=2.0, noise=0.001).images("test")
    for light, dark in zip(images.clean, images.noisy, strict=True):
        assert light.shape == (3, 200, 300)
        error = dark / WHITE - 0.2 * (light / WHITE) ** 2
        lit = light > 0.3 * WHITE  # where noise is not clipped
        assert abs(error[lit].mean()) < 1e-4
        assert error[lit].std() == pytest.approx(0.001, rel=0.05)
    again = DarkPhotographs(exposure=0.2, exponent=2.0, noise=0.001).images("training")
    assert all(np.array_equal(one, other) for one, other in zip(images.noisy, again.noisy, strict=True))


def test_haze_is_below_the_darkness_and_other_photographs_can_be_named() -> None:
    images = DarkPhotographs(exposure=0.5, exponent=2.0, noise=1e-9, haze=0.4, names=["flower"]).images("training")
    assert list(images.names) == ["flower"]
    expected = 0.5 * (0.6 * images.clean[0] / WHITE + 0.4) ** 2
    np.testing.assert_allclose(images.noisy[0] / WHITE, expected, rtol=0, atol=2e-5)


def test_over_exposed_photographs_have_their_gain_below_saturation() -> None:
    images = OverExposedPhotographs(gain=4.0).images("test")
    for light, bright in zip(images.clean, images.noisy, strict=True):
        linear, gained = (light / WHITE) ** 2.2, (bright / WHITE) ** 2.2
        saturated = linear > 0.2501
        np.testing.assert_allclose(gained[~saturated], (4 * linear[~saturated]).clip(max=1), atol=1e-3)
        assert (bright[saturated] == WHITE).all()
        assert saturated.any()


def test_a_blank_image_is_black_and_counts_once() -> None:
    images = Blank(image_size=5, colour=False).images("training")
    assert [image.shape for image in images.noisy] == [(1, 5, 5)]
    assert not images.noisy[0].any()
