from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.training.run_length import is_last_epoch, num_epochs


def trainer(**settings: Any) -> Any:
    given = {"max_epochs": -1, "max_steps": -1, "num_training_batches": 7, "accumulate_grad_batches": 2}
    return SimpleNamespace(**{**given, "current_epoch": 2, "global_step": 12, "should_stop": False, **settings})


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({}, None),
        ({"max_epochs": None}, None),
        ({"max_epochs": 5}, 5),
        ({"max_steps": 12}, 3),  # an epoch has four steps of at most two batches
        ({"max_steps": 13}, 4),
        ({"max_epochs": 3, "max_steps": 13}, 3),
        ({"max_epochs": 1000, "max_steps": 13}, 4),
        ({"max_steps": 13, "num_training_batches": float("inf")}, 1),  # a stream, whose first epoch does not end
    ],
)
def test_epochs_of_a_run(settings: dict[str, Any], epochs: int | None) -> None:
    assert num_epochs(trainer(**settings)) == epochs


def test_what_ends_a_run() -> None:
    assert not is_last_epoch(trainer(max_epochs=4, max_steps=13))
    for ended in ({"max_epochs": 3}, {"max_epochs": 4, "max_steps": 12}, {"should_stop": True}):
        assert is_last_epoch(trainer(**ended))
