import pytest
import torch

from lightning_modules.probabilistic import kernels
from lightning_modules.probabilistic.kernels import Moments, erf_moments, relu_moments


def test_moments_are_those_of_many_gaussian_weights() -> None:
    torch.manual_seed(0)
    z = torch.randn(5, 3, dtype=torch.float64)
    weight = torch.randn(400_000, 3, dtype=torch.float64)
    hidden = z @ weight.T
    value, derivative = relu_moments(z.square().sum(1)[:, None], z.square().sum(1), z @ z.T)
    torch.testing.assert_close(value, hidden.relu() @ hidden.relu().T / len(weight), atol=0.02, rtol=0)
    active = (hidden > 0).double()
    torch.testing.assert_close(derivative, active @ active.T / len(weight), atol=0.005, rtol=0)


def test_equal_inputs_are_exact_and_opposite_ones_give_nothing() -> None:
    variance = torch.rand(200, dtype=torch.float64)
    value, derivative = relu_moments(variance[:, None], variance, variance.diag() * (1 - 1e-16))
    assert torch.equal(derivative.diagonal(), torch.full((200,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(value.diagonal(), variance / 2, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        relu_moments(variance[:1], variance[:1], -variance[:1, None])[0], torch.zeros(1, 1).double()
    )


@pytest.mark.parametrize("moments", [relu_moments, erf_moments])
@pytest.mark.parametrize("pixels", [(), (3, 2)])
def test_a_few_rows_at_a_time_give_what_all_give_and_large_kernels_have_gradients(
    moments: Moments, pixels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, *pixels, dtype=torch.float64, generator=random) + 0.5 for n in (37, 29))
    covariance = torch.rand(37, 29, *pixels, dtype=torch.float64, generator=random) - 0.5
    whole = moments(first[:, None], second[None], covariance)
    monkeypatch.setattr(kernels, "AT_ONCE", 200)
    for one, other in zip(moments(first[:, None], second[None], covariance), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)
    (slope,) = torch.autograd.grad(
        moments(first[:, None], second[None], covariance.requires_grad_())[0].sum(), covariance
    )
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


def test_a_cosine_counts_as_1_within_four_eps_and_no_further_and_gradients_are_those_of_differences() -> None:
    eps = torch.finfo(torch.float64).eps
    cosine = torch.tensor([1 - 4 * eps, 1 - 3.5 * eps, 1 + eps, 3.5 * eps - 1], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    value, derivative = relu_moments(one, one, cosine)
    assert (derivative == 0.5).tolist() == [False, True, True, False]
    assert (value == 0.5).tolist() == [False, True, True, False]
    assert (value[3], derivative[3]) == (0, 0)
    random = torch.Generator().manual_seed(0)
    given = [torch.rand(*shape, dtype=torch.float64, generator=random) + 0.5 for shape in [(3, 1), (4,), (3, 4)]]
    given[2] = given[2] - 1
    assert torch.autograd.gradcheck(relu_moments, [each.requires_grad_() for each in given])
