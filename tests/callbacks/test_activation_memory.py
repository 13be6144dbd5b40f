"""Bytes that autograd saves, counted once per storage, and the values that a run logs."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.activation_memory import MEBIBYTE, ActivationMemory, SavedBytes, state_bytes
from tests.trainers import quiet, standing


def test_each_storage_counts_once_and_whole_and_parameters_do_not() -> None:
    inputs, layer = torch.rand(10, 4), nn.Linear(4, 3)
    with SavedBytes(layer) as saved:
        layer(inputs)
        layer(inputs)
    assert saved.total == 10 * 4 * 4
    with SavedBytes(layer) as saved:
        layer(inputs[:2])  # the storage of the slice contains all inputs
    assert saved.total == 10 * 4 * 4
    hidden = layer(inputs)
    with SavedBytes(layer) as saved:
        hidden.exp().sum()
    assert saved.total == 10 * 3 * 4  # the output, which is needed for the gradient of the operation itself
    with SavedBytes(layer) as saved, torch.no_grad():
        layer(inputs)
    assert saved.total == 0


class Squares(LightningModule):
    """Saves about 250 kB for backward in each step; with `fails`, each step raises an error."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 1)
        self.fails = fails

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.fails:
            raise ArithmeticError
        return self.layer(batch).sum() if batch_idx == 0 else self.layer(batch).exp().sin().exp().sum()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fitted(callback: ActivationMemory, **options: Any) -> dict[str, Tensor]:
    trainer = quiet(max_epochs=2, callbacks=[callback])
    trainer.fit(Squares(**options), DataLoader([torch.rand(1000, 64)] * 3, batch_size=None))  # type: ignore[arg-type]
    return trainer.callback_metrics


def test_a_run_logs_what_the_first_step_of_an_epoch_saves() -> None:
    callback = ActivationMemory()
    found = fitted(callback)
    assert float(found["train/saved_mebibytes"]) == pytest.approx(64_000 * 4 / MEBIBYTE)
    assert float(found["train/state_mebibytes"]) == pytest.approx(2 * 65 * 4 / MEBIBYTE)  # SGD keeps no state
    trainer = quiet(callbacks=[callback])
    trainer.test(Squares(), DataLoader([torch.rand(10, 64)], batch_size=None), verbose=False)  # type: ignore[arg-type]
    assert trainer.callback_metrics["test/saved_mebibytes"] == found["train/saved_mebibytes"]


def test_weights_gradients_and_both_moments_of_adam_are_the_state() -> None:
    network = nn.Linear(64, 1, dtype=torch.float64)
    network.bias.requires_grad_(False)
    adam = torch.optim.Adam([network.weight])
    network(torch.rand(2, 64).double()).sum().backward()
    adam.step()
    steps = sum(state["step"].nbytes for state in adam.state.values())
    assert state_bytes(network, [adam]) == 8 * (65 + 64 + 2 * 64) + steps


def test_a_step_that_fails_ends_the_count() -> None:
    callback = ActivationMemory()
    with pytest.raises(ArithmeticError):
        fitted(callback, fails=True)
    assert callback.counted is None


def test_the_count_of_an_epoch_goes_on_with_it() -> None:
    callback = ActivationMemory()
    fitted(callback)
    other = ActivationMemory()
    other.load_state_dict(callback.state_dict())
    other.on_train_batch_start(standing(current_epoch=1), Squares(), None, 2)
    assert other.counted is None
    assert other.found[1] == callback.found[1] > 0
