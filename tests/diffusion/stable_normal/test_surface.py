from itertools import pairwise

import torch
from torch import Tensor

from datamodules.normals.height_fields import surface_normals
from lightning_modules.diffusion.stable_normal.surface import heights


def normals(right: Tensor, down: Tensor) -> Tensor:
    """Return normals of a surface with these derivatives to the right and downwards; y points up."""
    normal = torch.stack([-right, down, torch.ones_like(right)], dim=-3)
    return normal / normal.norm(dim=-3, keepdim=True)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")


def centred(z: Tensor) -> Tensor:
    return z - z.mean(dim=(-2, -1), keepdim=True)


def test_planes_and_paraboloids_are_exact_and_a_batch_is_its_images() -> None:
    """For a quadratic function, the mean of two neighbouring derivatives equals the difference of the values."""
    i, j = grid(7, 10)
    plane = normals(torch.full_like(i, 0.3), torch.full_like(i, -0.7))
    bowl = normals(0.04 * (j - 4), -0.1 * (i - 2) + 0.02)
    expected = [0.3 * j - 0.7 * i, 0.02 * (j - 4) ** 2 - 0.05 * (i - 2) ** 2 + 0.02 * i]
    found = heights(torch.stack([plane, bowl]))
    torch.testing.assert_close(found, centred(torch.stack(expected)), rtol=0, atol=1e-11)
    assert heights(torch.zeros(3, 4, 5)).abs().max() == 0  # flat where no normal is known


def test_a_sphere_and_a_wave_are_exact_to_second_order() -> None:
    errors = []
    for n in (16, 32, 64):
        i, j = grid(n, n)
        y, x = ((at + 0.5) * 2 / n - 1 for at in (i, j))
        sphere = (4 - x**2 - y**2).sqrt()
        wave = torch.cos(3 * x + 1) * torch.cos(2 * y)
        slopes = torch.stack([-x / sphere, -3 * torch.sin(3 * x + 1) * torch.cos(2 * y)])
        falls = torch.stack([-y / sphere, -2 * torch.cos(3 * x + 1) * torch.sin(2 * y)])
        found = heights(normals(slopes, falls)) * 2 / n  # a pixel has the size 2 / n
        errors.append((found - centred(torch.stack([sphere, wave]))).abs().amax(dim=(1, 2)))
    assert (errors[0] < torch.tensor([1e-3, 2e-2])).all()
    for coarse, fine in pairwise(errors):
        assert ((coarse / fine - 4).abs() < 0.7).all()


def test_noise_of_the_normals_is_fitted_by_least_squares_and_facing_away_is_steep() -> None:
    """Compare with a dense solver on all differences."""
    uniform = torch.rand(1, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = surface_normals(uniform, 6)[0] + 0.3 * torch.randn(
        3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    noisy = noisy / noisy.norm(dim=0)
    assert (noisy[2] < 0.1).any()
    right, down = -noisy[0] / noisy[2].clamp(min=0.1), noisy[1] / noisy[2].clamp(min=0.1)
    rows, goals = [], []
    for i in range(6):
        for j in range(6):
            for slope, (k, m) in ((right, (i, j + 1)), (down, (i + 1, j))):
                if max(k, m) < 6:
                    row = torch.zeros(6, 6, dtype=torch.float64)
                    row[k, m], row[i, j] = 1, -1
                    rows.append(row.flatten())
                    goals.append((slope[i, j] + slope[k, m]) / 2)
    solved = torch.linalg.lstsq(torch.stack(rows), torch.stack(goals)[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(heights(noisy), centred(solved.view(6, 6)), rtol=0, atol=1e-9)
