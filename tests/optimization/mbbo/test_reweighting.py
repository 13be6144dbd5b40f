"""The derivatives of weighted logistic models compared with autograd, and the gradient of F with finite differences.

Common behaviour of all methods that learn sample weights: iterations in steps of any length, tests, rejections.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import Tensor
from torch.autograd.functional import hessian

from datamodules.loading import Loading
from datamodules.tables.bundled import BreastCancer
from datamodules.tables.tables import Tables
from datamodules.tables.trusted_rows import TrustedRows
from lightning_modules.optimization.mbbo import BSVRB
from lightning_modules.optimization.mbbo.blocks import BlockRates
from lightning_modules.optimization.mbbo.reweighting import (
    Batch,
    Reweighting,
    WeightedRows,
    WeightedSamples,
    objective,
    with_one,
)
from tests.numbers import numbers
from tests.optimization.mbbo.test_module import SMALL, fitted, table
from tests.trainers import quiet, standing

BLOCKS, ROWS, N, D, RIDGE = 3, 8, 12, 4, 0.1


def batch(rows: int = ROWS, n: int = N, seed: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """Return a batch with the temperatures and labels of its training samples."""
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


def rows() -> Any:
    table = TrustedRows(BreastCancer(validation_fraction=0.0, test_fraction=0.01), 50, 20, flipped=0.3)
    return table.training().columns


def test_batches_are_rows_of_the_table_with_labels_over_temperatures() -> None:
    table, temperature = rows(), torch.tensor([1.0, 4.0]).double()
    given = WeightedRows(table, 50, 30)
    training, trusted = given.draw((2, 7), 1, 0)
    batch = given.batch(training, trusted, temperature)
    for samples, place, first in ((batch.training, training, 0), (batch.trusted, trusted, 50)):
        assert torch.equal(samples.z[..., 1:], table["features"][first + place])
        assert torch.equal(samples.z[..., 0], torch.ones(2, 7).double())
        assert torch.equal(samples.a, table["target"][first + place] / temperature[:, None])
    whole = given.whole(temperature)
    assert whole.training.z.shape == (2, 50, 31)
    assert torch.equal(whole.trusted.z[1, :, 1:], table["features"][50:])
    assert torch.equal(given.corrupted, table["corrupted"][:50])


def test_what_is_drawn_follows_from_purpose_and_number_and_covers_all_rows() -> None:
    given = WeightedRows(rows(), 50, 30)
    one, again, next_one, other = (given.draw((100, 9), *words)[0] for words in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one, again)
    assert not torch.equal(one, next_one)
    assert not torch.equal(one, other)
    assert one.unique().tolist() == list(range(50))
    assert given.draw((100, 9), 1, 0)[1].unique().tolist() == list(range(20))


@pytest.mark.parametrize(
    ("left_out", "samples", "features", "message"),
    [
        ("", 50, 29, "model.features must be 30, the number of features of a row, got 29"),
        ("", 49, 30, "model.samples must be at least 50, the number of weighted rows, got 49"),
        ("trusted", 50, 30, "learning weights needs trusted rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(left_out: str, samples: int, features: int, message: str) -> None:
    table = {name: column for name, column in rows().items() if name != left_out}
    with pytest.raises(ValueError, match=message):
        WeightedRows(table, samples, features)


def test_equal_weights_tell_nothing_apart() -> None:
    _, found = fitted(rates=BlockRates(0.0))
    assert found["test/flip_auroc"] == found["test/clean_weight"] == found["test/flipped_weight"] == 0.5


def test_steps_of_any_length_are_the_same_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: dict[tuple[int, ...], Tensor] = {}

    def drawn(self: WeightedRows, shape: tuple[int, ...], purpose: int, number: int) -> tuple[Tensor, Tensor]:
        first, rows = (number * shape[0] if purpose == 1 else 0), []
        for part in ("training", "trusted"):
            key = (purpose, len(part), *shape[1:])
            random = torch.Generator().manual_seed(purpose)
            draws.setdefault(key, torch.randint(100, (60, *shape[1:]), generator=random))
            rows.append(draws[key][first : first + shape[0]])
        return rows[0], rows[1]

    monkeypatch.setattr(WeightedRows, "draw", drawn)
    one, other = (fitted(steps, iterations_per_step=60 // steps)[0] for steps in (3, 20))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=1e-12)


def test_the_test_reports_all_models_and_the_one_that_trusted_samples_choose() -> None:
    module, found = fitted(2)
    rows, trusted = table().test().columns, module.rows.trusted
    y, z = module.blocks.y, with_one(rows["features"])
    assert found["test/objective"] == pytest.approx(objective(z, rows["target"], y, module.temperature).mean().item())
    best = ((trusted[0] @ y.T).sign() == trusted[1][:, None]).sum(0).argmax()
    assert found["test/accuracy"] == pytest.approx(((z @ y[best]).sign() == rows["target"]).double().mean().item())
    torch.testing.assert_close(module(rows["features"]), z @ y.T)


def test_several_processes_need_blocks_of_their_own() -> None:
    module = BSVRB(**SMALL)
    module._trainer = standing(precision="64-true", world_size=2, strategy=None, datamodule=Tables(table()))
    with pytest.raises(ValueError, match=r"trainer\.strategy must be .*Independent on several processes"):
        module.setup("fit")


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_a_run_killed_within_a_step_ends_where_the_whole_one_does(
    variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module() -> BSVRB:
        return BSVRB(**SMALL, variant=variant)

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    def fit(killed: BSVRB, callbacks: Any = None, **arguments: Any) -> BSVRB:
        trainer = quiet(max_steps=4, precision="64-true", callbacks=callbacks)
        trainer.fit(killed, datamodule=Tables(table(), loading=Loading(passes_per_epoch=4)), **arguments)
        return killed

    whole, killed, moves = fit(module()), module(), 0
    move = killed.blocks.move

    def moved(*arguments: Any) -> Any:
        nonlocal moves
        moves += 1
        if moves == 120:  # within the third step of fifty iterations
            raise RuntimeError("killed")
        return move(*arguments)

    monkeypatch.setattr(killed.blocks, "move", moved)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, [Save()])
    resumed = fit(module(), ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert resumed.tables["course"].columns == whole.tables["course"].columns
