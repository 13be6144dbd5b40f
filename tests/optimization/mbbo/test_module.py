import math
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from datamodules.loading import Loading
from datamodules.tables.bundled import BreastCancer
from datamodules.tables.svmlight import SVMLight
from datamodules.tables.table_set import TableSet
from datamodules.tables.tables import Tables
from datamodules.tables.trusted_rows import TrustedRows
from lightning_modules.optimization.mbbo import BSVRB, RSVRB
from lightning_modules.optimization.mbbo.blocks import BlockRates, Rates, sampled_blocks
from tests.trainers import quiet

SMALL: dict[str, Any] = {
    **{"samples": 300, "features": 30, "blocks": 10, "sampled_blocks": 5, "batch_size": 16},
    **{"ridge": 0.05, "rates": BlockRates(eta=30.0), "iterations_per_step": 50},
}


def table() -> TrustedRows:
    return TrustedRows(BreastCancer(validation_fraction=0.0, test_fraction=0.01), 300, 100, flipped=0.3)


def fitted(steps: int = 6, source: TableSet | None = None, **arguments: Any) -> tuple[BSVRB, dict[str, float]]:
    module, data = BSVRB(**{**SMALL, **arguments}), Tables(source or table(), loading=Loading(passes_per_epoch=steps))
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_each_pass_visits_every_block_once_wherever_it_is_cut() -> None:
    whole = sampled_blocks(3, 0, 12, 6, 2)
    for start in (0, 3, 6, 9):
        assert sorted(whole[start : start + 3].flatten().tolist()) == list(range(6))
    parts = torch.cat([sampled_blocks(3, first, 5, 6, 2) for first in (0, 5)])
    assert torch.equal(parts, whole[:10])
    assert not torch.equal(whole[:3], whole[3:6])


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_flipped_samples_lose_their_weight_and_the_trusted_loss_falls(variant: Any) -> None:
    module, found = fitted(12, variant=variant, rates=BlockRates(30.0, tau_v=0.5 if variant == "v2" else 1.0))
    assert found["test/clean_weight"] > 0.75 > 0.25 > found["test/flipped_weight"]
    assert found["test/flip_auroc"] > 0.9
    course = module.tables["course"].columns
    assert course["iteration"][:2] == [50, 100]
    assert course["objective"][-1] == pytest.approx(found["test/trusted_objective"])
    assert course["objective"][-1] < course["objective"][0] - 0.05
    weights = module.tables["weights"].columns
    assert weights["mean weight"][11] == pytest.approx(found["test/clean_weight"])
    assert weights["samples"][11:13] == ["clean", "flipped"]


def test_variance_reduction_shows_in_the_trackers_errors() -> None:
    settings = {"batch_size": 1, "tracking": True, "sampled_blocks": 10}
    reduced, plain = (
        fitted(40, **settings, rates=BlockRates(0.3, beta, 0.02, alpha=alpha, gamma=gamma))[0].tables["course"].columns
        for alpha, gamma, beta in ((0.1, 0.9, 0.1), (1.0, 0.0, 1.0))
    )
    for name in ("error of s", "error of z"):
        assert sum(reduced[name][-10:]) < 0.6 * sum(plain[name][-10:]), name


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "features", "sizes", "steps", "variant", "rates"),
    [
        ("a8a", 123, (18156, 2270), 60, "v1", BlockRates()),
        ("a8a", 123, (18156, 2270), 60, "v2", BlockRates()),
        ("w8a", 300, (39799, 4975), 400, "v2", BlockRates(tau=3.0, radius=30.0)),
    ],
)
def test_real_rows_are_ranked_and_the_trusted_loss_is_below_that_of_a_constant(
    name: str, features: int, sizes: tuple[int, int], steps: int, variant: Any, rates: BlockRates
) -> None:
    """The classes are unequal (24 % and 3 % positive), so a constant has a high accuracy, but an AUROC of one half."""
    table = TrustedRows(SVMLight(f"{name}.bz2", features), *sizes, flipped=0.1, kept_positives=0.3)
    settings = {"samples": sizes[0], "features": features, "blocks": 20, "sampled_blocks": 10, "batch_size": 32}
    module, _ = fitted(steps, table, **settings, variant=variant, rates=rates, ridge=1e-5, iterations_per_step=10)
    assert module.tables["course"].columns["objective"][-1] < math.log(2) - 0.1
    rows = table.test().dense()
    logits = module(rows["features"].double())[:, int(module._best)]
    assert roc_auc_score(rows["target"] > 0, logits.detach()) > 0.8


def test_flipped_samples_lose_their_weight() -> None:
    module, data = (
        RSVRB(**{**SMALL, "rates": Rates(30.0, 0.3, 0.2)}),
        Tables(table(), loading=Loading(passes_per_epoch=12)),
    )
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics["test/flip_auroc"] > 0.8
    course = module.tables["course"].columns["objective"]
    assert course[-1] < course[0]
