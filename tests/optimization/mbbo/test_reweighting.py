"""The derivatives of weighted logistic models against autograd, and the gradient of F against finite differences."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import hessian

from lightning_modules.optimization.mbbo.reweighting import Batch, Reweighting, WeightedSamples, objective, with_one

BLOCKS, ROWS, N, D, RIDGE = 3, 8, 12, 4, 0.1


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(rows: int = ROWS, n: int = N, seed: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """A batch, with the temperatures and the labels of its training samples."""
    sigma = 1 + 3 * torch.rand(BLOCKS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts, labels = [], []
    for own in (seed + 1, seed + 2):
        index = torch.randint(n, (BLOCKS, rows), generator=torch.Generator().manual_seed(own))
        z, target = numbers(n, D, seed=own + 10), numbers(n, seed=own + 20).sign()
        parts.append(WeightedSamples(z[index], target[index] / sigma[:, None], index))
        labels.append(target[index])
    return Batch(*parts), sigma, labels[0]


def lower(x: Tensor, w: Tensor, block: int, of: WeightedSamples) -> Tensor:
    loss = torch.log1p(torch.exp(-of.a[block] * (of.z[block] @ w)))
    return (torch.sigmoid(x[of.place[block]]) * loss).mean() + RIDGE / 2 * w @ w


def test_derivatives_are_autograds() -> None:
    given, _, _ = batch()
    problem, x, w, v = Reweighting(RIDGE), numbers(N), numbers(BLOCKS, D, seed=1), numbers(BLOCKS, D, seed=2)
    gradient, curved = problem.lower_gradient(x, w, given), problem.lower_hessian(x, w, given)
    product, upper = problem.hessian_product(x, w, v, given), problem.upper_gradient(w, given)
    mixed = torch.zeros(N, dtype=torch.float64)
    for i in range(BLOCKS):
        both = (x.clone().requires_grad_(), w[i].clone().requires_grad_())
        value = lower(*both, i, given.training)
        torch.testing.assert_close(gradient[i], torch.autograd.grad(value, both[1])[0], rtol=0, atol=1e-12)
        second: Tensor = hessian(lambda u, i=i: lower(x, u, i, given.training), w[i])  # type: ignore[misc, assignment]
        torch.testing.assert_close(curved[i], second, rtol=0, atol=1e-12)
        torch.testing.assert_close(product[i], second @ v[i], rtol=0, atol=1e-12)
        slope = torch.autograd.grad(lower(*both, i, given.training), both[1], create_graph=True)[0]
        mixed += torch.autograd.grad(slope @ v[i], both[0])[0]
        trusted, u = given.trusted, w[i].clone().requires_grad_()
        loss = torch.log1p(torch.exp(-trusted.a[i] * (trusted.z[i] @ u))).mean()
        torch.testing.assert_close(upper[i], torch.autograd.grad(loss, u)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(problem.cross_product(x, w, v, given), mixed, rtol=0, atol=1e-12)
    derivative = problem.cross_derivative(x, w, given)  # samples that occur twice in a batch count twice
    torch.testing.assert_close(torch.einsum("knd,kd->n", derivative, v), mixed, rtol=0, atol=1e-12)


def test_large_margins_overflow_nowhere() -> None:
    given, _, _ = batch()
    problem, x, w = Reweighting(RIDGE), numbers(N), 1e5 * numbers(BLOCKS, D, seed=1)
    for value in (
        problem.lower_gradient(x, w, given),
        problem.lower_hessian(x, w, given),
        problem.upper_gradient(w, given),
    ):
        assert torch.isfinite(value).all()
    z, target = numbers(N, D), numbers(N, seed=3).sign()
    assert torch.isfinite(objective(z, target, w, torch.ones(BLOCKS))).all()


def test_the_gradient_of_f_is_that_of_finite_differences() -> None:
    z, target, sigma = numbers(N, D), numbers(N, seed=1).sign(), torch.tensor([1.0, 2.0, 5.0]).double()
    trusted, true = numbers(9, D, seed=2), numbers(9, seed=3).sign()
    rows, own = torch.arange(N).expand(BLOCKS, -1), torch.arange(9).expand(BLOCKS, -1)
    given = Batch(
        WeightedSamples(z[rows], target[rows] / sigma[:, None], rows),
        WeightedSamples(trusted[own], true[own] / sigma[:, None], own),
    )
    problem = Reweighting(RIDGE)

    def solved(x: Tensor) -> Tensor:
        w = torch.zeros(BLOCKS, D, dtype=torch.float64)
        for _ in range(50):
            w = w - torch.linalg.solve(problem.lower_hessian(x, w, given), problem.lower_gradient(x, w, given))
        return w

    def value(x: Tensor) -> Tensor:
        return objective(trusted, true, solved(x), sigma).mean()

    x = numbers(N, seed=4)
    w = solved(x)
    v = torch.linalg.solve(problem.lower_hessian(x, w, given), problem.upper_gradient(w, given))
    exact = -problem.cross_product(x, w, v, given) / BLOCKS
    steps = 1e-5 * torch.eye(N, dtype=torch.float64)
    differences = torch.stack([(value(x + step) - value(x - step)) / 2e-5 for step in steps])
    assert (exact - differences).norm() / differences.norm() < 1e-6


def test_the_objective_is_the_mean_logistic_loss() -> None:
    features, target, w = numbers(20, D - 1), numbers(20, seed=1).sign(), numbers(2, D, seed=2)
    sigma = torch.tensor([1.0, 4.0]).double()
    z = with_one(features)
    assert torch.equal(z[:, 0], torch.ones(20).double())
    for i in range(2):
        loss = F.binary_cross_entropy_with_logits(z @ w[i] / sigma[i], (target + 1) / 2)
        torch.testing.assert_close(objective(z, target, w, sigma)[i], loss)
