import torch

from lightning_modules.probabilistic.kernels import relu_moments


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
