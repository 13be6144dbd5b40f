from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.value_noise import Exponential, GaussianValues, Gumbel, Laplace, StudentT, ValueNoise
from datamodules.graphs.linear_sem import LinearSEM


@pytest.mark.parametrize("noise", [GaussianValues(3.0), Laplace(), Gumbel(), Exponential()])
@pytest.mark.parametrize("variance", [2.0, (0.5, 10.0)])
def test_each_node_has_noise_of_its_variance(noise: ValueNoise, variance: Any) -> None:
    rows = LinearSEM(6, 8, noise=noise, variance=variance, samples=100_000, seed=1).training()
    x, weight, std = rows.columns["features"], rows.truth["w_true"], rows.truth["noise_std"]
    torch.testing.assert_close((x - x @ weight).std(dim=0), std, rtol=0.02, atol=0)
    ends = variance if isinstance(variance, tuple) else (variance, variance)
    assert all(ends[0] <= each <= ends[1] + 1e-12 for each in (std**2).tolist())
    assert len(set(std.tolist())) == (6 if isinstance(variance, tuple) else 1)


def test_a_set_is_a_function_of_its_seed() -> None:
    one, same, other = (LinearSEM(6, 8, seed=seed).training() for seed in (0, 0, 1))
    assert torch.equal(one.columns["features"], same.columns["features"])
    assert not torch.equal(one.truth["w_true"], other.truth["w_true"])
    assert LinearSEM(6, 8).row_shapes == {"features": (6,)}
    assert np.isfinite(one.columns["features"]).all()


def test_noise_without_a_variance_is_rejected() -> None:
    with pytest.raises(ValueError, match="noise must have a finite variance, got StudentT"):
        LinearSEM(noise=StudentT(2.0))
