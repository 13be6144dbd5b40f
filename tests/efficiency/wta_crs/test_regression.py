"""Regression on real-valued targets: the squared error and its gradient, the logged correlations, and predictions."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.efficiency.wta_crs import WTACRS
from tests.trainers import quiet

BATCH, BATCHES = 8, 3


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Linear(4, 16), nn.Linear(16, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.tokens(image).relu().mean(dim=1))


class Numbers(LightningDataModule):
    """Tokens `[B, 20, 4]`, and one real number per sample as the target."""

    num_train_samples, num_classes = BATCH * BATCHES, 1

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        image = torch.rand(BATCHES, BATCH, 20, 4, generator=random)
        index = torch.arange(BATCHES * BATCH).view(BATCHES, BATCH)
        self.batches: list[dict[str, Any]] = [
            {"image": each, "label": 5 * each.mean((1, 2)) + each[:, 0, 0], "index": rows, "global_batch_size": BATCH}
            for each, rows in zip(image, index, strict=True)
        ]

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    train_dataloader = test_dataloader = predict_dataloader = _loader


def test_one_output_is_trained_with_the_squared_error_and_measured_by_correlations() -> None:
    torch.manual_seed(0)
    model = WTACRS(Regressor(), 1, ["tokens"], ratio=0.5, optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    data, trainer = Numbers(), quiet(max_epochs=3)
    [before] = trainer.test(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    predicted = torch.cat([each["prediction"] for each in trainer.predict(model, datamodule=data)])  # type: ignore[union-attr, call-overload]
    label = torch.cat([batch["label"] for batch in data.batches])
    assert after["test/squared_error"] == pytest.approx(float((predicted - label).square().mean()), rel=1e-5)
    assert after["test/squared_error"] < before["test/squared_error"]
    assert after["test/pearson"] == pytest.approx(float(np.corrcoef(predicted, label)[0, 1]), abs=1e-5)
    assert after["test/spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, label).statistic, abs=1e-5)


def test_with_all_tokens_the_gradient_is_that_of_the_squared_error() -> None:
    torch.manual_seed(0)
    plain = Regressor()
    model = WTACRS(plain, 1, ["tokens"], ratio=1.0, optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    before = {name: value.detach().clone() for name, value in model.network.named_parameters()}
    data = Numbers()
    quiet(max_epochs=1, limit_train_batches=1).fit(model, datamodule=data)
    batch, fresh = data.batches[0], Regressor()
    fresh.load_state_dict(before)
    ((fresh(batch["image"])[:, 0] - batch["label"]) ** 2).mean().backward()
    for name, parameter in fresh.named_parameters():
        expected = before[name] - 0.5 * parameter.grad  # type: ignore[operator]
        torch.testing.assert_close(model.network.get_parameter(name), expected, rtol=1e-4, atol=1e-6)
