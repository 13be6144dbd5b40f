import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.ellipses import Ellipses, ellipse_masks


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_an_ellipse_has_its_area_its_centre_and_its_axes(seed: int) -> None:
    uniform = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
    mask = ellipse_masks(uniform, 256, (0.1, 0.2), (0.5, 1.0))[0].double().numpy()
    u = uniform[0].double().numpy()
    a = 256 * (0.1 + 0.1 * u[2])
    b = a * (0.5 + 0.5 * u[3])
    assert mask.sum() == pytest.approx(math.pi * a * b, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert rows.mean() + 0.5 == pytest.approx(256 * (0.25 + 0.5 * u[0]), abs=0.5)
    assert columns.mean() + 0.5 == pytest.approx(256 * (0.25 + 0.5 * u[1]), abs=0.5)
    spread = np.linalg.eigvalsh(np.cov(rows, columns))  # a quarter of a squared semi-axis
    assert 2 * np.sqrt(spread) == pytest.approx([b, a], rel=0.02)


def test_angles_turn_from_columns_to_rows() -> None:
    uniform = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.5, 0.0, 0.5]])
    flat, upright = ellipse_masks(uniform, 64, (0.3, 0.3), (0.4, 0.4))
    assert torch.equal(flat.T, upright)
    assert flat.any(dim=0).sum() > 2 * flat.any(dim=1).sum()


def test_a_set_of_ellipses_is_its_seeds() -> None:
    shapes = Ellipses(10)
    first = shapes.masks(torch.arange(10), 32, seed=0)
    assert torch.equal(first[[7, 2]], shapes.masks(torch.tensor([7, 2]), 32, seed=0))
    assert not torch.equal(first, shapes.masks(torch.arange(10), 32, seed=1))
    assert first.dtype == torch.uint8
    assert len(first.flatten(start_dim=1).unique(dim=0)) == 10


def test_the_bundled_set_has_no_labels_and_different_splits() -> None:
    images = EllipseImages(num_training=20, num_validation=20, num_test=20)
    training, validation, test = images.training(), images.validation(), images.test()
    assert not training.given.any()
    assert training.clean.any()
    for one, other in ((training, validation), (training, test), (validation, test)):
        assert not (one.image == other.image).flatten(start_dim=1).all(dim=1).any()
    truth = test.given.bool()[:, None]
    image = test.image.double() / 255
    inside = (image * truth).sum(dim=(1, 2, 3)) / truth.sum(dim=(1, 2, 3))
    outside = (image * ~truth).sum(dim=(1, 2, 3)) / (~truth).sum(dim=(1, 2, 3))
    assert (inside - outside).mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(EllipseImages(num_test=20).test().image, test.image)
    assert not torch.equal(EllipseImages(num_test=20).prepare(1).test().image, test.image)
