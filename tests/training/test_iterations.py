"""Several iterations in a step equal as many single ones, count as one step, and can be saved between iterations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.training.iterations import OwnUpdates, iterate
from tests.trainers import quiet


class Halley(LightningModule):
    """Computes the square root of 2 with a nonlinear iteration, whose steps become smaller."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.iterations = iterations
        self.root = nn.Parameter(torch.tensor(9.0))
        self.register_buffer("rate", torch.tensor(1.0))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        iterate(self, self.iterations, self._iteration)
        return {"loss": (self.root.detach() ** 2 - 2).abs()}

    def _iteration(self) -> None:
        assert not torch.is_grad_enabled()
        self.rate *= 0.99
        self.root -= self.rate * (self.root**2 - 2) / (2 * self.root)

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(self.parameters())


def loader(steps: int) -> DataLoader:
    return DataLoader(torch.zeros(steps, 1))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_two_in_a_step_are_two_steps_and_a_checkpoint_stands_between_two(tmp_path: Path) -> None:
    one, two, resumed = Halley(1), Halley(2), Halley(2)
    trainer = quiet(max_epochs=1, precision="64-true")
    trainer.fit(one, loader(6))
    assert trainer.global_step == 6
    trainer = quiet(max_steps=2, precision="64-true")
    trainer.fit(two, loader(3))
    assert trainer.global_step == 2
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    trainer = quiet(max_steps=3, precision="64-true")
    trainer.fit(resumed.double(), loader(3), ckpt_path=tmp_path / "two.ckpt")
    assert trainer.global_step == 3
    assert torch.equal(resumed.root, one.root)
    assert torch.equal(resumed.rate, one.rate)
