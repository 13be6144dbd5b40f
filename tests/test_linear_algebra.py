import pytest
import torch

from lightning_modules.linear_algebra import cholesky_factor, project_onto_ball
from tests.numbers import numbers


def test_the_factor_of_a_shifted_matrix_gives_it_back_and_is_nan_where_there_is_none() -> None:
    rows = numbers(5, 3)
    factor = cholesky_factor(rows @ rows.T, 0.1)  # of rank 3, so that the shift is needed
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(factor @ factor.T, rows @ rows.T + 0.1 * torch.eye(5))
    assert cholesky_factor(-torch.eye(3), torch.tensor(0.5)).isnan().all()


@pytest.mark.parametrize("radius", [0.5, 100.0])
def test_the_projection_onto_a_ball(radius: float) -> None:
    vector = numbers(6, 3)
    projected = project_onto_ball(vector, radius)
    assert projected.norm(dim=1).max() <= radius * (1 + 1e-15)
    inside = vector.norm(dim=1) <= radius
    assert torch.equal(projected[inside], vector[inside])
    torch.testing.assert_close(torch.nn.functional.normalize(projected), torch.nn.functional.normalize(vector))
