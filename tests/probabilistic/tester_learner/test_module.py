import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

import train
from datamodules.corruptions.value_noise import AdversarialFlips, ConstantFlips
from datamodules.loading import Loading
from datamodules.tables.halfspaces import Halfspaces
from datamodules.tables.table_set import Rows
from datamodules.tables.tables import Tables
from lightning_modules.probabilistic.tester_learner import TesterLearner
from lightning_modules.probabilistic.tester_learner.surrogates import SURROGATES, surrogate_loss
from tests.command import ROOT
from tests.trainers import quiet

TesterLearner.__test__ = False  # type: ignore[attr-defined] # of which pytest thinks that it is a test
FAST: dict[str, Any] = {"draws": 40, "sigma": 0.8}


def data(marginal: Any = "gaussian", samples: int = 16_000, seed: int = 0, batch_size: int = 1000) -> Tables:
    return Tables(Halfspaces(ConstantFlips(0.2), 3, samples, marginal, 4000), batch_size, loading=Loading(seed=seed))


def fitted(module: TesterLearner, own: Tables, epochs: int = 8) -> dict[str, float]:
    trainer = quiet(max_epochs=epochs, check_val_every_n_epoch=epochs, precision="64-true")
    trainer.fit(module, datamodule=own)
    validated = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(module, datamodule=own, verbose=False)
    return validated | {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_normal_points_are_accepted_and_learned_from(surrogate: Any) -> None:
    beta = 0.02 if surrogate == "ramp" else 0.08  # the logistic slope at the boundary is a quarter of the ramp's
    found = fitted(TesterLearner(3, 0.2, surrogate=surrogate, beta=beta, **FAST), data())
    assert found["val/accepted"] == found["test/accepted"] == 1
    assert -0.001 < found["test/excess_error"] < 0.02
    assert found["test/angle"] < 5
    assert found["val/error"] + found["val/error_of_opposite"] == pytest.approx(1)
    assert found["val/gradient"] < 0.06


def test_points_with_a_gap_are_rejected_where_the_learner_is_stuck() -> None:
    module = TesterLearner(3, 0.2, sigma=0.4, draws=40)
    found = fitted(module, data("gap"), 1)
    assert found["test/accepted"] == 0
    assert found["val/gradient"] == 0
    assert torch.equal(module.halfspace, torch.eye(3, dtype=torch.float64)[0] * module.halfspace[0])
    assert found["test/error"] == pytest.approx(0.5, abs=0.03)
    assert found["val/covariance"] < 0.1  # a test of the whole sample alone would pass
    assert found["val/mass_band_6"] == found["val/mass_band_2"] == 1
    assert fitted(TesterLearner(3, 0.2, sigma=0.4, tests=False), data("gap"), 1)["test/accepted"] == 1


def test_adversarial_labels_cost_at_most_twice_the_optimum_and_strips_accept_normal_points() -> None:
    own = Tables(Halfspaces(AdversarialFlips(0.05, 2), 3, 16_000, "gaussian", 4000), 1000, loading=Loading(seed=0))
    module = TesterLearner(3, 0.0, tests="strips", **FAST)
    found = fitted(module, own)
    assert found["test/accepted"] == 1
    assert found["test/error_of_truth"] == pytest.approx(0.05, abs=0.01)
    assert found["test/error"] < 2 * found["test/error_of_truth"]
    assert "degree_2_strip_2" in module.names


def test_moments_of_all_points_of_degree_two_accept_a_gap_where_the_learner_is_stuck() -> None:
    found = fitted(TesterLearner(3, 0.2, sigma=0.4, tests="moments", degree=2, draws=40), data("gap"), 1)
    assert found["test/accepted"] == 1
    assert found["test/error"] == pytest.approx(0.5, abs=0.03)


def test_each_batch_leaves_a_candidate_of_its_own() -> None:
    module, seen = TesterLearner(3, beta=0.3, rows_per_iteration=20, **FAST), []
    module.on_train_batch_end = lambda *_: seen.append(module.weight.detach().clone())  # type: ignore[method-assign]
    fitted(module, data(samples=200, batch_size=50), 2)
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[-1])
    torch.testing.assert_close(torch.stack(module.candidates), torch.stack(seen))


@pytest.mark.parametrize(("marginal", "accepted"), [("heavy", 0), ("mixture", 0)])
def test_other_laws_are_rejected_although_the_halfspace_may_be_right(marginal: str, accepted: int) -> None:
    assert fitted(TesterLearner(3, 0.2, **FAST), data(marginal), 2)["test/accepted"] == accepted


def test_an_iteration_is_a_step_along_autograds_gradient() -> None:
    own = data(samples=100, batch_size=50)
    module = TesterLearner(3, beta=0.3, rows_per_iteration=20, **FAST)
    fitted(module, own, 1)
    w = nn.Parameter(torch.eye(3, dtype=torch.float64)[0])
    rows = own.table.training().columns
    order = own.training_batches(0, 0, 1)._order(0, 0)
    for part in order.split(20):  # 20, 20 and 10 rows
        loss = surrogate_loss(rows["features"][part], rows["target"][part], w, SURROGATES["ramp"], 0.8)
        moved = w.data - 0.3 * torch.autograd.grad(loss, w)[0]
        w.data = moved / moved.norm()
    torch.testing.assert_close(module.weight.data, w.data, rtol=0, atol=1e-12)


def test_the_better_sign_is_returned_by_the_least_gradient() -> None:
    own = data()
    module = TesterLearner(3, 0.2, beta=1e-12, **FAST)
    own.setup("fit")
    w_true = own.table.validation().truth["w_true"]  # type: ignore[union-attr]
    module.weight.data = -w_true
    module.candidates = [torch.eye(3, dtype=torch.float64)[0]]
    found = fitted(module, own, 1)
    torch.testing.assert_close(module.halfspace, w_true, rtol=0, atol=1e-6)
    assert found["val/error"] == pytest.approx(0.2, abs=0.02)
    columns = module.tables["candidates"].columns
    assert columns["gradient"][0] > 2 * min(columns["gradient"])


def test_too_few_points_are_a_reject_with_exit_status_zero(tmp_path: Path) -> None:
    few = (
        "--data.table.samples",
        "400",
        "--data.batch_size",
        "100",
        "--model.draws",
        "20",
        "--trainer.max_epochs",
        "1",
    )
    config = ("--config", str(ROOT / "configs/tester_learner/demo.yaml"), "--trainer.check_val_every_n_epoch", "1")
    more = ("--run_directory", str(tmp_path), "--test_after_fit", "true", "--data.table.test_samples", "100")
    assert train.main(["fit", *config, *few, *more]) == 0
    report = pd.read_csv(tmp_path / "report.csv").set_index("statistic")
    assert report["value"]["degree_4_band_6"] == math.inf
    assert not report["value"].isna().any()
    tested = pd.read_csv(tmp_path / "test_metrics.csv").set_index("metric")["value"]
    assert tested["test/accepted"] == 0
    assert (tmp_path / "figures" / "report.png").exists()


class WithoutValidation(Halfspaces):
    def validation(self) -> Rows:
        return None  # type: ignore[return-value]


def test_weights_are_not_averaged() -> None:
    """Validation selects the halfspace; weight averaging would keep its previous value instead."""
    trainer = quiet(max_epochs=1, precision="64-true", callbacks=[EMAWeightAveraging(use_buffers=False)])
    with pytest.raises(ValueError, match=r"trainer\.callbacks must not have EMAWeightAveraging"):
        trainer.fit(TesterLearner(3, **FAST), datamodule=data(samples=100, batch_size=50))


def test_rows_to_test_are_needed_and_so_is_double_precision() -> None:
    trainer = quiet(max_epochs=1, precision="64-true", limit_val_batches=0)
    with pytest.raises(ValueError, match=r"give data\.table validation rows"):
        trainer.fit(TesterLearner(3, **FAST), datamodule=Tables(WithoutValidation(ConstantFlips(), 3, 100), 50))
    with pytest.raises(ValueError, match=r"trainer\.precision must be 64-true"):
        quiet(max_epochs=1).fit(TesterLearner(3, **FAST), datamodule=data(samples=100, batch_size=50))
