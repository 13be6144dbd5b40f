import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from datamodules.loading import Loading
from datamodules.tables.bundled import Diabetes
from datamodules.tables.tables import Tables
from datamodules.tables.uci import UCI
from lightning_modules.probabilistic.scale_mixture_nngp import (
    Burr,
    DenseNetwork,
    FixedScale,
    InverseGamma,
    NetworkKernel,
    ScaleMixtureRegression,
)
from tests.grouped import grouped
from tests.trainers import quiet, standing

EPS = 0.2


def regression(scale: Any = None, **options: Any) -> ScaleMixtureRegression:
    kernel = NetworkKernel(DenseNetwork(2, "erf"), 1.2, 0.3, 1.1)
    return ScaleMixtureRegression(kernel, scale or InverseGamma(), EPS, **options)


def few(**options: Any) -> Tables:
    return Tables(
        Diabetes(train_size=20, validation_fraction=0, test_fraction=0.2), **grouped(Tables, {"seed": 3, **options})
    )


def rows() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x, new = (torch.randn(n, 3, generator=random, dtype=torch.float64) for n in (12, 5))
    return x, x[:, 0].sin() + 0.1 * torch.randn(12, generator=random, dtype=torch.float64), new


@torch.no_grad()
def test_clean_predictions_have_the_noise_and_released_ones_are_those_of_the_authors_code() -> None:
    """`released` inverts like the authors' code: relative jitter, no noise, and 1e-6 in the quadratic form."""
    x, y, new = rows()
    clean, released = regression(), regression(formulas="released")
    k, cross, variance = clean.kernel(x, x), clean.kernel(x, new), clean.kernel.diagonal(new)
    for module, jitter, noise in ((clean, EPS, EPS), (released, EPS * k.diagonal().mean(), 0)):
        module.condition(x, y)
        inverse = (k + jitter * torch.eye(12).double()).inverse()
        mean, scale_one = module(new)
        torch.testing.assert_close(mean, cross.T @ inverse @ y, rtol=1e-10, atol=1e-12)
        expected = variance + noise - (cross.T @ inverse @ cross).diagonal()
        torch.testing.assert_close(scale_one, expected, rtol=1e-8, atol=1e-10)
    assert released._known is not None
    a = b = 2.0
    d = 2 * a + y @ (b / a * k + 1e-6 * torch.eye(12).double()).inverse() @ y
    law: Any = released.scale.law().given_values(released._known[2], 12)
    torch.testing.assert_close(law.b / law.a, d / (2 * a + 12) * b / a, rtol=1e-5, atol=0)  # squared scale of C


def test_the_loss_is_the_mean_negative_log_density_of_the_rows() -> None:
    x, y, _ = rows()
    module = regression(FixedScale())
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    batch: Any = {"features": x, "target": y, "index": torch.arange(12), "global_batch_size": 12}
    covariance = module.kernel(x, x) + EPS * torch.eye(12).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(12).double(), covariance)
    torch.testing.assert_close(module.training_step(batch, 0)["loss"], -normal.log_prob(y) / 12)


def test_a_step_lowers_the_density_of_all_rows_and_its_gradient_is_right() -> None:
    x, y, _ = rows()
    module = regression()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    batch: Any = {"features": x, "target": y, "index": torch.arange(12), "global_batch_size": 12}
    module.training_step(batch, 0)["loss"].backward()
    for raw in (parameter for parameter in module.parameters() if parameter.requires_grad):
        values = []
        for change in (1e-5, -2e-5):
            with torch.no_grad():
                raw += change
            values.append(float(module.training_step(batch, 0)["loss"].detach()))
        with torch.no_grad():
            raw += 1e-5
        assert float(raw.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-9)  # type: ignore[arg-type]
    assert not module.kernel.last_std.raw.requires_grad


def test_a_t_process_takes_another_unit_of_the_targets_and_a_gaussian_process_does_not() -> None:
    results = {}
    for name, scale in (("t", InverseGamma(1e-8, 1e-8)), ("gaussian", FixedScale()), ("burr", Burr())):
        module = regression(scale)
        trainer = quiet(precision="64-true")
        results[name] = trainer.test(module, few(), verbose=False)[0]
        table = module.tables["calibration"].columns
        assert len(table["targets"]) == 102
        assert table["share of targets inside"][50] == 1
    same = results["t"]
    assert same["test/shifted_nll"] == pytest.approx(same["test/nll"], abs=1e-6)
    lost = {name: result["test/shifted_nll"] - result["test/nll"] for name, result in results.items()}
    assert lost["burr"] < lost["gaussian"] / 2


def test_the_likelihood_is_that_of_the_targets_own_units() -> None:
    module, data = regression(FixedScale()), few()
    result = quiet(precision="64-true").test(module, data, verbose=False)[0]
    train, test = data.table.training(), data.table.test()
    std, mean = float(test.truth["target_std"]), float(test.truth["target_mean"])
    with torch.no_grad():
        module.condition(train.columns["features"], train.columns["target"])
        centre, variance = module(test.columns["features"])
    law = torch.distributions.Normal(centre * std + mean, variance.sqrt() * std)
    target = test.columns["target"] * std + mean
    assert result["test/nll"] == pytest.approx(-float(law.log_prob(target).mean()), abs=1e-10)
    assert result["test/mse"] == pytest.approx(float((target - law.mean).square().mean()), rel=1e-10)


def test_predictions_are_in_the_targets_units(tmp_path: Any) -> None:
    module, data = regression(), few()
    trainer = quiet(precision="64-true", default_root_dir=tmp_path)
    parts: Any = trainer.predict(module, data)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table) == ["index", "mean", "std"]
    assert table["mean"].to_numpy() == pytest.approx(torch.cat([part["mean"] for part in parts]).numpy())
    assert 100 < table["mean"].mean() < 200
    assert table["std"].between(20, 200).all()


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"precision": "32-true"}, "trainer.precision must be 64-true for ScaleMixtureRegression, got 32-true"),
        ({"precision": "bf16-mixed"}, "trainer.precision must be 64-true"),
        ({"world_size": 2}, "ScaleMixtureRegression works in one process, .* run seeds in parallel instead"),
        ({"datamodule": few(batch_size=7)}, "data.batch_size must be left out for ScaleMixtureRegression"),
    ],
)
def test_runs_that_cannot_be_are_refused_at_setup(trainer: dict[str, Any], message: str) -> None:
    module = regression()
    module.trainer = standing(**{"precision": "64-true", "world_size": 1, **trainer})
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["bostonHousing", "concrete", "energy", "kin8nm", "power-plant", "wine-quality-red", "yacht"]
)
def test_processes_on_the_uci_sets(name: str) -> None:
    """After 100 steps on 150 rows, both processes beat a normal law of the targets; so does the unfitted t process."""
    if "NOISEWORKS_DATA" not in os.environ:
        pytest.skip("NOISEWORKS_DATA is not set")
    nll = {}
    for kind, scale in (("t", InverseGamma()), ("gaussian", FixedScale())):
        kernel = NetworkKernel(DenseNetwork(4), train_last=kind == "gaussian")
        module = ScaleMixtureRegression(kernel, scale, 0.1, optimizer=lambda p: torch.optim.Adam(p, 0.05))
        data = Tables(UCI(name, train_size=150, validation_fraction=0), loading=Loading(passes_per_epoch=100, seed=0))
        trainer = quiet(precision="64-true", max_epochs=1)
        nll[f"{kind} unfitted"] = trainer.test(module, data, verbose=False)[0]["test/nll"]
        trainer.fit(module, data)
        nll[kind] = trainer.test(module, data, verbose=False)[0]["test/nll"]
    target = data.table.test().columns["target"]
    alone = float((target.square() / 2).mean() + np.log(2 * np.pi) / 2 + data.table.test().truth["target_std"].log())
    print(name, {key: round(value, 3) for key, value in nll.items()}, round(alone, 3))
    assert max(nll["t"], nll["gaussian"], nll["t unfitted"]) < alone
