import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from lightning_modules.diffusion.stable_normal.angular_error import AngularErrors, angular_error, angular_spread, unit
from lightning_modules.diffusion.stable_normal.surface import heights


def normals(*shape: int, seed: int = 0) -> Tensor:
    random = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return unit(random)


def test_vectors_are_brought_to_unit_length_and_zero_stays() -> None:
    given = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]])[None, :, None]
    assert unit(given)[0, :, 0].T.tolist() == [pytest.approx([0.6, 0.8, 0.0]), [0, 0, 0]]
    assert unit(torch.full((1, 3, 1, 1), 1e-30)).isfinite().all()


def test_angles_are_those_between_directions_whatever_the_frame() -> None:
    n, m = normals(2, 3, 4, 5), normals(2, 3, 4, 5, seed=1)
    torch.testing.assert_close(angular_error(7 * n, n), torch.zeros(2, 4, 5, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        angular_error(-n, n), torch.full((2, 4, 5), 180.0, dtype=torch.float64), rtol=0, atol=1e-5
    )
    turn = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    rotated = [torch.einsum("ij,bjhw->bihw", turn, each) for each in (n, m)]
    torch.testing.assert_close(angular_error(*rotated), angular_error(n, m))
    torch.testing.assert_close(angular_error(n, m)[0, 0, 0], torch.rad2deg(torch.arccos(n[0, :, 0, 0] @ m[0, :, 0, 0])))


def test_measures_are_pooled_over_the_pixels_of_all_images() -> None:
    """Compare with NumPy on all pixels at once; the true normals have any length, and some are unknown."""
    true = [normals(2, 3, 6, 7), 1.2 * normals(1, 3, 4, 4, seed=1)]
    true[0][0, :, :2] = 0
    true[1][0, :, 0] = 1.6
    estimates = [unit(one + 0.3 * normals(3, *one.shape, seed=seed)) * 2 for seed, one in enumerate(true, start=2)]
    metric = AngularErrors()
    angles, squares, variances = [], [], []
    for estimate, one in zip(estimates, true, strict=True):
        metric.update(estimate, one)
        for b in range(len(one)):
            length = np.linalg.norm(one[b], axis=0)
            valid = (length > 0.5) & (length < 1.5)
            seen = unit(estimate[:, b]).numpy()
            error = np.degrees(np.arccos(np.clip((seen * one[b].numpy()).sum(axis=1), -1, 1)))[:, valid]
            angles.append(error.ravel())
            squares.append(((seen - one[b].numpy()) ** 2).sum(axis=1)[:, valid].ravel())
            variances.append(error.mean(axis=1).var())
    pooled, found = np.concatenate(angles), {key: float(value) for key, value in metric.compute().items()}
    assert found["mean_error"] == pytest.approx(pooled.mean(), rel=1e-12)
    assert found["median_error"] == pytest.approx(np.median(pooled), abs=0.011 + np.diff(np.sort(pooled)).max() / 9)
    for name, threshold in (("within_11_25", 11.25), ("within_22_5", 22.5), ("within_30", 30.0)):
        assert found[name] == pytest.approx(100 * (pooled < threshold).mean(), rel=1e-12)
    assert found["rmse"] == pytest.approx(np.sqrt(np.concatenate(squares).mean()), rel=1e-12)
    assert found["variance"] == pytest.approx(np.mean(variances), rel=1e-9)


def test_depth_errors_are_those_of_integrated_surfaces_of_images_with_all_normals() -> None:
    true, estimate = normals(3, 3, 6, 7), normals(2, 3, 3, 6, 7, seed=1)
    true[1, :, 2, 2] = 0
    metric = AngularErrors()
    metric.update(estimate[:, 1:2], true[1:2])
    assert metric.compute()["depth_error"].isnan()
    metric.update(2 * estimate[:, ::2], true[::2])
    errors = [(heights(one[b]) - heights(true[b])).square().mean().sqrt() for one in estimate for b in (0, 2)]
    torch.testing.assert_close(metric.compute()["depth_error"], torch.stack(errors).mean())


def test_the_median_is_exact_to_a_bin_of_a_hundredth_of_a_degree() -> None:
    angle = torch.deg2rad(torch.rand(10_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 80)
    estimate = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()]).view(1, 3, 73, 137)
    true = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)[:, None, None].expand(1, 3, 73, 137)
    metric = AngularErrors()
    metric.update(estimate[None], true)
    assert float(metric.compute()["median_error"]) == pytest.approx(float(torch.rad2deg(angle).median()), abs=0.01)


def test_shares_of_processes_add_up() -> None:
    true, estimate = normals(5, 3, 4, 4), normals(2, 5, 3, 4, 4, seed=1)
    whole, parts = AngularErrors(), [AngularErrors(), AngularErrors()]
    whole.update(estimate, true)
    for rank, part in enumerate(parts):
        part.update(estimate[:, rank::2], true[rank::2])
    reduced = AngularErrors()
    for name in reduced._defaults:
        setattr(reduced, name, sum(getattr(part, name) for part in parts))
    reduced._update_count = 2
    for key, value in whole.compute().items():
        torch.testing.assert_close(reduced.compute()[key], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("angle", [0.0, 10.0, 80.0])
def test_two_normals_at_an_angle_to_their_mean_spread_by_this_angle(angle: float) -> None:
    """The lengths of the estimates have no effect."""
    x, z = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    estimates = torch.tensor([[x, 0.0, z], [-3 * x, 0.0, 3 * z]], dtype=torch.float64)[:, None, :, None, None]
    torch.testing.assert_close(
        angular_spread(estimates), torch.full((1, 1, 1), angle, dtype=torch.float64), atol=1e-5, rtol=0
    )
