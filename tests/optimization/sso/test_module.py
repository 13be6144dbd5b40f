"""SSO agrees with the authors' code, plain SGD and least squares; expensive gradients, rejections, resuming."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from datamodules.loading import Loading
from datamodules.tables.svmlight import SVMLight
from datamodules.tables.table_set import Rows, TableSet
from datamodules.tables.tables import Tables
from lightning_modules.optimization.sso import (
    SSO,
    AdaGradStep,
    Descent,
    DiagonalAdaGradStep,
    LineSearchStep,
    ScheduledStep,
    TargetStep,
    line_search,
)
from lightning_modules.optimization.sso import module as sso_module
from tests.trainers import quiet

COUNT = torch.arange(120, dtype=torch.float64).reshape(30, 4)
X = torch.sin(1.3 * COUNT) + COUNT % 7 / 7
Y = torch.sign(torch.cos(2.1 * torch.arange(30, dtype=torch.float64)) + X[:, 0])
LOSS = nn.SoftMarginLoss(reduction="sum")


class Points(TableSet):
    """Thirty points in two classes, all of which are also test points."""

    seed = 0

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (4,), "target": ()}

    def training(self) -> Rows:
        return Rows({"features": X, "target": Y})

    test = training


def network(*layers: nn.Module) -> nn.Sequential:
    """Create a network whose parameters are set to values of the sine function."""
    made = nn.Sequential(*(layers or (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)))).double()
    for number, parameter in enumerate(made.parameters()):
        sines = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + number)
        parameter.data.copy_(sines.view_as(parameter))
    return made


class Losses(Callback):
    """Records the mean loss of all points after each batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        with torch.no_grad():
            self.values.append(LOSS(pl_module.network(X).flatten(), Y).item() / 30)


def fitted(module: SSO, steps: int = 4, batch_size: int | None = 10, **options: Any) -> list[float]:
    """Train on batches in the points' order, and return the losses after each batch."""
    noted = Losses()
    data = Tables(Points(), batch_size=batch_size, shuffle=False)
    quiet(max_steps=steps, precision="64-true", callbacks=[noted], **options).fit(module, datamodule=data)
    return noted.values


def sso(step: TargetStep | None = None, m: int = 5, *layers: nn.Module, **arguments: Any) -> SSO:
    return SSO(network(*layers), LOSS, step or ScheduledStep(8.0), m, **arguments)


@pytest.mark.parametrize(
    ("step", "losses"),
    [
        (ScheduledStep(8.0), [0.30207951079702533, 0.3025069286510606, 0.22670196872267956, 0.22804024488811772]),
        (
            ScheduledStep(8.0, "stochastic"),
            [0.30207951079702533, 0.2666311227947356, 0.24197630314698368, 0.23348454911084887],
        ),
        (
            ScheduledStep(8.0, "exponential"),
            [0.33390739816091847, 0.30043500536744516, 0.2813863285592864, 0.2661972401999058],
        ),
        (LineSearchStep(), [0.5186593823028692, 0.3956230411160391, 0.32656406587123016, 0.2579204194789089]),
        (AdaGradStep(), [1.1104057499284428, 1.6209583634304658, 0.4636537729943605, 0.4435372819352086]),
        (DiagonalAdaGradStep(), [0.5306057890715667, 0.43187670786893523, 0.3748752387024863, 0.3384094488908732]),
    ],
    ids=["constant", "stochastic", "exponential", "sls", "adagrad", "diagonal"],
)
def test_it_trains_as_the_authors_code_does(step: TargetStep, losses: list[float]) -> None:
    """The values are from the authors' optimizers on these points in float64, in batches of ten with m = 5."""
    assert fitted(sso(step)) == pytest.approx(losses, rel=0, abs=1e-11)


def test_one_small_step_is_a_step_of_sgd() -> None:
    rate, alpha = 8.0, 1e-3
    module = sso(ScheduledStep(rate), 1, initial_step=alpha / 2 ** (1 / 3))
    plain = network()
    LOSS(plain(X[:10]).flatten(), Y[:10]).backward()
    fitted(module, 1)
    for ours, theirs in zip(module.network.parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.data, theirs.data - alpha * rate * theirs.grad / 10, rtol=0, atol=1e-12)


def test_scalings_give_the_same_weights_where_steps_are_those_of_the_other() -> None:
    code, paper = sso(ScheduledStep(8.0)), sso(ScheduledStep(4.0), scaling="paper", initial_step=10 / (10 * 1 / 8))
    torch.testing.assert_close(fitted(code, 3), fitted(paper, 3), rtol=0, atol=1e-12)


def test_many_steps_of_a_linear_model_solve_least_squares_with_one_expensive_gradient() -> None:
    module = SSO(network(nn.Linear(4, 1)), nn.MSELoss(reduction="sum"), ScheduledStep(0.5), 2000, "paper")
    fitted(module, 1, None)
    ones = torch.cat([X, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    weight = torch.cat([each.data.flatten() for each in module.network.parameters()])
    torch.testing.assert_close(weight, torch.linalg.lstsq(ones, Y[:, None]).solution.flatten(), rtol=0, atol=1e-5)
    assert module.loss.gradients == 1


def test_lbfgs_minimises_the_surrogate_of_a_linear_model_in_a_step_with_one_expensive_gradient() -> None:
    inner: Any = lambda parameters: torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")  # noqa: E731
    loss, step = nn.MSELoss(reduction="sum"), ScheduledStep(0.5)
    module = SSO(network(nn.Linear(4, 1)), loss, step, 1, "paper", inner_optimizer=inner)
    fitted(module, 1, None)
    ones = torch.cat([X, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    weight = torch.cat([each.data.flatten() for each in module.network.parameters()])
    torch.testing.assert_close(weight, torch.linalg.lstsq(ones, Y[:, None]).solution.flatten(), rtol=0, atol=1e-5)
    assert module.loss.gradients == 1


def test_an_inner_optimizer_starts_anew_for_each_batch_and_takes_m_steps() -> None:
    rate, m = 8.0, 3
    inner: Any = lambda parameters: torch.optim.Adam(parameters, lr=0.05)  # noqa: E731
    module, plain = sso(ScheduledStep(rate), m, inner_optimizer=inner), network()
    for start in (0, 10):
        at = plain(X[start : start + 10]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(LOSS(at.flatten(), Y[start : start + 10]), at)
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.05)
        for _ in range(m):
            optimizer.zero_grad()
            moved = plain(X[start : start + 10]) - at.detach()
            (gradient * moved * rate + moved.square()).mean().backward()  # 1/H is the learning rate
            optimizer.step()
    fitted(module, 2)
    for ours, theirs in zip(module.network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=1e-12)
    assert module.loss.gradients == 2


def test_the_line_search_alone_uses_its_arguments() -> None:
    with pytest.raises(ValueError, match="c is used only with the line search"):
        sso(c=0.2, inner_optimizer=torch.optim.LBFGS)


def test_the_surrogate_never_increases_and_gradients_are_one_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[float] = []

    def watched(parameters: Any, gradient: Any, value: Tensor, function: Any, step: float, c: float) -> Any:
        found = line_search.search(parameters, gradient, value, function, step, c)
        squared = sum(float((each**2).sum()) for each in gradient)
        assert function() <= value - c * found.step * squared
        values.append(value.item())
        return found

    monkeypatch.setattr(sso_module, "search", watched)
    module = sso(m=7)
    fitted(module, 4)
    assert len(values) == 28
    for batch in range(4):
        surrogate = values[7 * batch : 7 * batch + 7]
        assert surrogate == sorted(surrogate, reverse=True)
        assert surrogate[0] == 0
    assert module.loss.gradients == 4
    assert module.tables["course"].columns["expensive_gradients"] == [0, 3, 4]


@pytest.mark.parametrize("make", [LineSearchStep, AdaGradStep, DiagonalAdaGradStep])
def test_a_run_killed_within_an_inner_loop_ends_where_the_whole_one_does(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(sso(make()), 5)
    searches = 0

    def killed(*arguments: Any) -> Any:
        nonlocal searches
        searches += 1
        if searches == 13:  # the third of five searches in the third batch
            raise RuntimeError("killed")
        return line_search.search(*arguments)

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    monkeypatch.setattr(sso_module, "search", killed)
    data = Tables(Points(), batch_size=10, shuffle=False)
    with pytest.raises(RuntimeError, match="killed"):
        quiet(max_steps=5, precision="64-true", callbacks=[Save()]).fit(sso(make()), datamodule=data)
    monkeypatch.undo()
    noted = Losses()
    trainer = quiet(max_steps=5, precision="64-true", callbacks=[noted])
    trainer.fit(
        sso(make()), datamodule=Tables(Points(), batch_size=10, shuffle=False), ckpt_path=tmp_path / "last.ckpt"
    )
    assert noted.values == whole[2:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": nn.MSELoss()}, "loss.reduction must be sum.*got mean for MSELoss"),
        ({"loss": nn.Identity()}, "loss.reduction must be sum.*got None for Identity"),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSO(**{"network": network(), "loss": LOSS, "target_step": ScheduledStep(1.0), **arguments})


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.Dropout(0.1), "network has 1, Dropout in training"), (nn.BatchNorm1d(5), "network has 1, BatchNorm1d in")],
)
def test_random_outputs_are_refused_and_allowed_in_evaluation_mode(layer: nn.Module, message: str) -> None:
    layers = nn.Linear(4, 5), layer, nn.Linear(5, 1)
    with pytest.raises(ValueError, match=message):
        fitted(sso(None, 1, *layers))
    layer.eval()
    fitted(sso(None, 1, *layers), 1)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision bf16-true has too few digits"):
        quiet(max_steps=1, precision="bf16-true").fit(sso(), datamodule=Tables(Points()))


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "features", "rate", "others"),
    [("mushrooms.bz2", 112, 32.0, [1.0, 10.0, 100.0]), ("ijcnn1.val.bz2", 22, 8.0, [1.0, 10.0, 100.0])],
)
def test_a_real_set_is_fitted_better_than_by_the_best_sgd_of_a_grid(
    file: str, features: int, rate: float, others: list[float]
) -> None:
    """One epoch of batches of 125 with m = 10 takes a few seconds."""

    def trained(make: Any) -> float:
        torch.manual_seed(1)
        module = make(nn.Linear(features, 1))
        data = Tables(SVMLight(file, features, os.environ["NOISEWORKS_DATA"]), batch_size=125, loading=Loading(seed=1))
        quiet(max_epochs=1).fit(module, datamodule=data)
        return module.course[-1]["training_loss"]

    sgd = [trained(lambda network, lr=lr: Descent(network, LOSS, lambda p: torch.optim.SGD(p, lr))) for lr in others]
    ours = trained(lambda network: SSO(network, LOSS, ScheduledStep(rate), 10))
    assert ours < 0.9 * min(loss for loss in sgd if loss == loss)
