"""SVRG's gradient with respect to the outputs equals closed forms, and small SSO steps are SVRG on the weights."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.tables.tables import Tables
from lightning_modules.optimization.sso import SSO, SVRG, ScheduledStep
from lightning_modules.optimization.sso.surrogate import paper_surrogate
from lightning_modules.optimization.sso.svrg import svrg_estimate
from tests.optimization.sso.test_module import LOSS, Points, X, Y, network
from tests.trainers import quiet

N, B, K = 30, 4, 3
"""The number of points, the number of points sampled in a step, and the number of steps between snapshots."""


def test_the_estimate_is_unbiased_with_its_variance_and_is_the_gradient_of_the_surrogate() -> None:
    z, snapshot = torch.linspace(-1, 2, 10, dtype=torch.float64).view(5, 2), torch.zeros(5, 2, dtype=torch.float64)
    slope = lambda outputs: 4 * outputs**3 - 1  # noqa: E731  # of the sum of z^4 - z
    exact, chosen = slope(z), [torch.tensor(rows) for rows in combinations(range(5), 2)]
    found = torch.stack([svrg_estimate(slope(snapshot), rows, slope(z)[rows], 5 / 2) for rows in chosen])
    torch.testing.assert_close(found.mean(0), exact, rtol=0, atol=1e-12)
    error = (found - exact).square().sum((1, 2)).mean()
    torch.testing.assert_close(error, (5 / 2 - 1) * (exact - slope(snapshot)).square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        svrg_estimate(exact, chosen[0], exact[chosen[0]], 5 / 2), exact
    )  # at the snapshot itself
    outputs, two = z.clone().requires_grad_(), torch.tensor(2.0, dtype=torch.float64)
    value = (z**4 - z).sum()
    assert torch.autograd.gradcheck(lambda outputs: paper_surrogate(outputs, z, found[0], two, value), outputs)
    (gradient,) = torch.autograd.grad(paper_surrogate(outputs, z, found[0], two, value), outputs)
    torch.testing.assert_close(gradient, found[0])


def fitted(module: SSO, steps: int, batch_size: int | None = None, **options: Any) -> Any:
    trainer = quiet(max_steps=steps, precision="64-true")
    trainer.fit(module, datamodule=Tables(Points(), batch_size=batch_size, shuffle=False), **options)
    return trainer


def module(step: float) -> SSO:
    svrg = SVRG(samples_per_step=B, every=K)
    return SSO(network(nn.Linear(4, 1)), LOSS, ScheduledStep(1.0), 1, "paper", initial_step=step, svrg=svrg)


def test_small_steps_of_a_linear_model_are_svrg_on_the_weights_and_a_run_resumes(tmp_path: Path) -> None:
    alpha, plain, counted = 1e-4, network(nn.Linear(4, 1)), list[int]()
    ours = module(alpha / 2)  # the step grows by a factor of 2 in an epoch of one batch
    ours.loss.register_forward_pre_hook(lambda _, arguments: counted.append(len(arguments[0])))
    trainer = fitted(ours, 5)

    def gradient(rows: Tensor, weights: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(LOSS(weights(X[rows]).flatten(), Y[rows]), list(weights.parameters())))

    snapshot = network(nn.Linear(4, 1))
    for step in range(5):
        if step % K == 0:
            snapshot.load_state_dict(plain.state_dict())
        rows, every = ours.svrg.sample_from(step, N), torch.arange(N)  # type: ignore[union-attr]
        parts = gradient(rows, plain), gradient(rows, snapshot), gradient(every, snapshot)
        for weight, new, old, whole in zip(plain.parameters(), *parts, strict=True):
            weight.data -= alpha * (N / B * (new - old) + whole)
    for own, expected in zip(ours.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.data, expected.data, rtol=0, atol=1e-12)
    assert counted == [N, B, B, N, B]
    assert ours.loss.gradients == 5

    again = module(alpha / 2)
    fitted(again, 2).save_checkpoint(tmp_path / "two.ckpt")
    resumed = module(alpha / 2)
    fitted(resumed, 5, ckpt_path=tmp_path / "two.ckpt")
    assert trainer.global_step == 5
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), ours.parameters(), strict=True))


def test_batches_of_some_samples_are_rejected() -> None:
    with pytest.raises(ValueError, match="svrg needs all 30 samples in each batch, but the batch has 10: set"):
        fitted(module(1.0), 1, 10)
