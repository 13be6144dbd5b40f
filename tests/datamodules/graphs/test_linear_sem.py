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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 1}, "nodes must be at least 2"),
        ({"nodes": 4, "edges": 7}, "edges must be in"),
        ({"graph": "grid"}, "graph must be one of erdos_renyi, scale_free"),
        ({"graph": "scale_free", "edges": 5}, "edges_per_node must be in"),
        ({"variance": 0.0}, "variance must be positive"),
        ({"variance": (2.0, 1.0)}, "upper_end_of_variance must be at least 2.0"),
        ({"noise": StudentT(2.0)}, "noise must have a finite variance, got StudentT"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSEM(**arguments)
