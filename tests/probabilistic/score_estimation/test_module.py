from typing import Any

import pytest
import torch

from datamodules.loading import Loading
from datamodules.tables.noised_points import Atoms, NoisedPoints, UniformCube
from datamodules.tables.tables import Tables
from lightning_modules.linear_algebra import project_onto_ball
from lightning_modules.probabilistic.score_estimation import ScoreEstimation
from tests.trainers import quiet


def data(**options: Any) -> Tables:
    return Tables(
        NoisedPoints(Atoms(), samples=20, test_samples=30, seed=0), loading=Loading(passes_per_epoch=10), **options
    )


def test_a_fit_reports_the_network_beside_its_kernel() -> None:
    torch.manual_seed(0)
    module = ScoreEstimation(width=2000, sampling_steps=10)
    trainer = quiet(max_epochs=2, precision="64-true")
    trainer.fit(module, tables := data())
    assert float(module.steps_taken) == 20
    assert float(module.held_out_step) > 0
    [metrics] = trainer.test(module, tables, verbose=False)
    assert metrics["test/coupling"] < 0.1
    assert metrics["test/least_kernel_risk"] <= metrics["test/kernel_risk"]
    terms = module.tables["error_terms"].columns
    by_term = {
        name: torch.tensor([v for v, each in zip(terms["distance"], terms["term"], strict=True) if each == name])
        for name in set(terms["term"])
    }
    parts = by_term["label mismatch"] + by_term["early stopping"] + by_term["approximation"]
    assert (by_term["all"] <= parts + 1e-6).all()  # the triangle inequality
    module.stop = "end"
    assert module.stopping_step() == 1e7
    module.stop = "hold_out"
    assert module.stopping_step() == float(module.held_out_step)


def test_scores_are_the_estimates_of_clean_points_which_are_kept_in_the_ball() -> None:
    module = ScoreEstimation(width=100, g=1.0, start=0.1).double()
    torch.nn.init.normal_(module.network.weight, std=3)
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.linspace(0.1, 1, 6, dtype=torch.float64)
    clean = project_onto_ball(module(torch.cat([x, (t - 0.1)[:, None], torch.ones(6, 1).double()], 1)), 1.0)
    a = (-t / 2).exp()[:, None]
    torch.testing.assert_close(module.score(x, t), (a * clean - x) / (1 - a**2))
    h, target = 1 - a**2, torch.randn(6, 2, dtype=torch.float64)  # the weighted loss is a regression
    difference = (a * clean - x) / h - (a * target - x) / h
    torch.testing.assert_close((h / a).square() * difference.square(), (clean - target).square())
    far, inside = 5 * torch.randn(50, 2).double(), project_onto_ball(torch.randn(50, 2).double(), 1.0)
    assert ((project_onto_ball(far, 1.0) - inside).norm(dim=1) <= (far - inside).norm(dim=1)).all()


def test_samples_go_from_the_end_of_the_data_to_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ScoreEstimation(width=10, start=0.2, end=0.5, sampling_steps=6).double()
    times: list[float] = []

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(float(t[0]))
        return -x

    monkeypatch.setattr(module, "score", score)
    module.sample_points(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.tensor(times), torch.tensor([0.5, 0.45, 0.4, 0.35, 0.3, 0.25]))


@pytest.mark.parametrize(
    ("precision", "tables", "message"),
    [
        ("32-true", data(), "precision must be 64-true"),
        ("64-true", data(batch_size=5), "batch_size must be left out"),
        ("64-true", Tables(NoisedPoints(UniformCube(), samples=5001)), "at most 5000 training rows, got 5001"),
        ("64-true", data(), "model.end must be the data's last time"),
    ],
)
def test_what_the_theory_does_not_take_is_refused(precision: Any, tables: Tables, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quiet(max_epochs=1, precision=precision).fit(ScoreEstimation(width=10, end=0.5), tables)


def test_a_local_regression_uses_the_rows_of_a_ball_and_score_errors_are_those_of_scores() -> None:
    torch.manual_seed(0)
    module = ScoreEstimation(width=20, sampling_steps=2, local_radius=1.2)
    first, tables = module.network.weight.detach().clone().double(), data()
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, tables)
    rows = tables.training_rows
    inside = rows["features"][:, :2].norm(dim=1) <= 1.2
    assert 0 < inside.sum() < len(inside)
    z, target, a = rows["features"][inside], rows["target"][inside], module.network.signs.double() / 20**0.5
    weight, eta = first, float(module.path.eta)
    for _ in range(10):  # gradient descent only on the rows of the ball
        residual = (z @ weight.T).relu() @ a - target
        weight = weight - eta * ((residual @ a.T) * (z @ weight.T > 0)).T @ z
    torch.testing.assert_close(module.network.weight.data, weight)
    assert len(module.path.values) == inside.sum()
    [metrics] = trainer.test(module, tables, verbose=False)
    assert metrics["test/coupling"] < 1
    found = NoisedPoints(Atoms(), samples=20, test_samples=30, seed=0).test().columns
    x, t = found["features"][:, :2], found["features"][:, 2] + 0.1
    true = ((-t / 2).exp()[:, None] * found["clean_target"] - x) / (1 - (-t).exp())[:, None]
    expected = (module.score(x, t) - true).square().sum(1).mean()
    estimate = module(found["features"])
    torch.testing.assert_close(module.score_error(found["features"], estimate, found["clean_target"]), expected)
