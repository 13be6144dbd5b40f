"""Predictions that callbacks ask for themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.labels.memorization import Memorization
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
}


class Watched(LightningModule):
    """A network with a frozen part, that keeps what it is called with and in."""

    num_classes = 2

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.frozen = nn.Dropout(0.5)
        self.calls: list[dict[str, Any]] = []

    def forward(self, image: Tensor) -> Tensor:
        modes = {module.training for module in self.modules()}
        output = self.network(image)
        self.calls.append({"image": image, "output": output, "modes": modes, "gradient": torch.is_grad_enabled()})
        return output

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.frozen.eval()
        return self.network(batch["image"]).float().sum()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class LabelledDigits(LabelledImages):
    """Ten training images in five batches, every other one with a false label."""

    def training_images_dataloader(self) -> DataLoader:
        label = torch.tensor([0, 1])
        batch = {"image": torch.rand(2, 1, 8, 8), "label": label, "clean_label": torch.tensor([0, 0]), "brightest": 1}
        return DataLoader([batch] * 5, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fast_dev_run", "batches"), [(False, 5), (2, 2)])
def test_memorization_asks_in_the_trainers_precision(tmp_path: Path, fast_dev_run: Any, batches: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([0.0, 1.0])  # always 1: the false label
    module = Watched(network)
    trainer = Trainer(
        precision="bf16-mixed", logger=False, callbacks=[Memorization()], fast_dev_run=fast_dev_run, **QUIET
    )
    trainer.test(module, datamodule=LabelledDigits(Digits(), batch_size=100), verbose=False)
    assert [call["output"].dtype for call in module.calls] == [torch.bfloat16] * batches
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == {
        "test/memorized": 1.0,
        "test/recovered": 0.0,
    }
