import torch

from lightning_modules.probabilistic.scale_mixture_nngp.posterior import predicted, seen


def test_mean_and_variance_are_those_of_a_block_of_the_precision() -> None:
    """The other points given the seen ones: covariance P_**^-1 and mean -P_**^-1 P_*n y, of the precision P."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=random, dtype=torch.float64)
    y = torch.randn(4, generator=random, dtype=torch.float64)
    noisy = torch.diag(torch.tensor([0.3] * 4 + [0.0] * 3)).double()
    kernel = root @ root.T
    precision = (kernel + noisy).inverse()
    known = seen(kernel[:4, :4], y, noisy[0, 0])
    mean, variance = predicted(known, kernel[:4, 4:], kernel.diagonal()[4:])
    covariance = precision[4:, 4:].inverse()
    torch.testing.assert_close(variance, covariance.diagonal(), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean, -covariance @ precision[4:, :4] @ y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(known.log_det, torch.logdet(kernel[:4, :4] + noisy[:4, :4]))
    torch.testing.assert_close(known.quadratic, y @ torch.linalg.solve(kernel[:4, :4] + noisy[:4, :4], y))


def test_a_matrix_that_is_not_positive_definite_gives_nan_and_no_wrong_number() -> None:
    known = seen(-torch.eye(3).double(), torch.ones(3).double(), torch.zeros(()).double())
    assert torch.isnan(known.quadratic)
