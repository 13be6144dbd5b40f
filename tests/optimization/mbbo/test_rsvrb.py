from typing import Any

import pytest

from datamodules.tables.tables import Tables
from lightning_modules.optimization.mbbo import RSVRB
from tests.optimization.mbbo.test_module import SMALL, table
from tests.trainers import quiet


def test_flipped_samples_lose_their_weight() -> None:
    module, data = RSVRB(**SMALL, tau=0.2, beta=0.3), Tables(table(), passes_per_epoch=12)
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    assert trainer.callback_metrics["test/flip_auroc"] > 0.8
    course = module.tables["course"].columns["objective"]
    assert course[-1] < course[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampled_blocks": 3}, "sampled_blocks must divide the 10 blocks, got 3"),
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"beta": 0.0}, "beta must be in"),
        ({"tau": 0.0}, "tau must be positive"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RSVRB(**{**SMALL, **arguments})
