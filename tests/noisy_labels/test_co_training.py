from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule

from lightning_modules.noisy_labels.co_training import active_network, check_alternation

MODULE = SimpleNamespace(passes_per_epoch=2)


class OnePass(LightningDataModule):
    num_train_samples, passes_per_epoch = 10, 1


def test_the_second_half_of_an_epoch_trains_the_second_network() -> None:
    assert [active_network(batch, 6) for batch in range(6)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("data", [None, LightningDataModule()])
def test_a_loader_of_the_users_own_is_visited_as_often_as_the_module_says(data: Any) -> None:
    check_alternation(SimpleNamespace(datamodule=data, accumulate_grad_batches=1, strategy=None), MODULE)  # type: ignore[arg-type]


def test_settings_that_mix_the_networks_are_refused() -> None:
    for data, batches, message in ((OnePass(), 1, "passes_per_epoch 2.*got 1"), (None, 2, "accumulate_grad_batches 1")):
        trainer: Any = SimpleNamespace(datamodule=data, accumulate_grad_batches=batches, strategy=None)
        with pytest.raises(ValueError, match=message):
            check_alternation(trainer, MODULE)
