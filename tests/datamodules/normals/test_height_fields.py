import math

import pytest
import torch

from datamodules.normals.height_fields import BUMPS, HeightFields, surface_normals


def height(uniform: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Compute h of one field from its formula."""
    total = torch.zeros_like(x)
    for k in range(BUMPS):
        column, row, tall, wide = uniform[4 * k : 4 * k + 4].tolist()
        square = (x - (2 * column - 1)) ** 2 + (y - (2 * row - 1)) ** 2
        total = total + (1.6 * tall - 0.8) * torch.exp(-square / (2 * (0.25 + 0.35 * wide) ** 2))
    angle, offset, slope = uniform[4 * BUMPS :].tolist()
    along = math.cos(2 * math.pi * angle) * x + math.sin(2 * math.pi * angle) * y - (offset - 0.5)
    return total + (0.3 + 0.7 * slope) * along.abs()


def test_normals_are_those_of_the_heights() -> None:
    """The expected normals come from automatic differentiation of h, with rows counted downwards and y upwards."""
    uniform = torch.rand(5, 4 * BUMPS + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = surface_normals(uniform, 7)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5, 7, 7, dtype=torch.float64))
    for b in range(5):
        for row, column in ((0, 0), (2, 5), (6, 1), (3, 3)):
            x, y = (torch.tensor((2 * at + 1) / 7 - 1, dtype=torch.float64) for at in (column, 6 - row))
            x.requires_grad_(True), y.requires_grad_(True)
            dx, dy = torch.autograd.grad(height(uniform[b], x, y), (x, y))
            normal = torch.stack([-dx, -dy, torch.ones(())])
            torch.testing.assert_close(found[b, :, row, column], normal / normal.norm())


def test_images_are_lit_surfaces_that_follow_from_seed_and_split() -> None:
    source = HeightFields(num_training=40, image_size=12).source("training")
    again, other = (HeightFields(num_training=40, image_size=12, seed=seed).source("training") for seed in (0, 1))
    assert (source.image == again.image).all()
    assert (source.image != other.image).any()
    assert (HeightFields(num_test=40, image_size=12).source("test").normal != source.normal).any()
    assert source.sizes == [(12, 12)] * 40
    normal, image = torch.from_numpy(source.normal).double(), torch.from_numpy(source.image).double() / 255
    for b in range(40):  # one light explains the pixels that are neither black nor white, up to the noise
        lit = (image[b, 0] > 0.15) & (image[b, 0] < 0.95)
        light = torch.linalg.lstsq(normal[b][:, lit].T, image[b, 0][lit][:, None]).solution
        assert float((normal[b][:, lit].T @ light - image[b, 0][lit][:, None]).std()) < 0.045
        assert float(light.norm()) == pytest.approx(1, abs=0.2)


def test_glossy_surfaces_have_highlights_transparent_ones_show_another_and_crowded_ones_are_rougher() -> None:
    plain, glossy, clear, crowded = (
        HeightFields(num_test=20, noise=1e-6, **more).source("test")
        for more in ({}, {"gloss": 0.5}, {"transparency": 0.25}, {"bumps": 12})
    )
    assert (plain.normal == glossy.normal).all()
    image, shiny, mixed = (source.image[:, 0].astype(float) for source in (plain, glossy, clear))
    brighter = shiny - image
    assert brighter.min() >= 0
    assert 0.02 < (brighter > 25).mean() < 0.5  # highlights are small
    expected = 0.75 * image + 0.25 * image[[19, *range(19)]]
    assert abs(mixed - expected)[image.max(axis=(1, 2)) < 255].max() <= 1
    assert crowded.normal[:, 2].mean() < plain.normal[:, 2].mean() - 0.05
