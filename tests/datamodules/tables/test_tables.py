"""Batches of rows: full batches on the device and mini-batches; distributed, resumed, and in the module's dtype."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.guards.sanity_checks import SanityChecks
from datamodules.loading import Loading
from datamodules.loading.global_batches import GlobalBatches
from datamodules.tables.table_set import Rows, TableSet
from datamodules.tables.tables import Tables
from lightning_modules.training.logging import log_training
from tests.trainers import quiet
from tests.two_processes import in_two_processes


class Lines(TableSet):
    """Eleven rows of three columns; the target depends on the seed."""

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (2,), "target": ()}

    def training(self) -> Rows:
        features = torch.arange(22, dtype=torch.float64).view(11, 2)
        target = features.sum(dim=1) + (self.seed or 0)
        return Rows({"features": features, "target": target}, {"w_true": torch.ones(2, dtype=torch.float64)})

    def test(self) -> Rows:
        return self.training()


class Mean(LightningModule):
    """Stores batches, and learns the mean of the target."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"loss": log_training(self, batch, ((self.weight - batch["target"]) ** 2).mean())}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.batches.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(data: Tables, **options: Any) -> Mean:
    module = Mean()
    trainer = quiet(**{"max_epochs": 2, "callbacks": [SanityChecks()], "precision": "64-true", **options})
    trainer.fit(module, datamodule=data)
    return module


def test_all_rows_are_the_same_tensors_in_every_step() -> None:
    batches = fitted(Tables(Lines(), loading=Loading(passes_per_epoch=3, seed=5))).batches
    assert len(batches) == 6
    assert len({id(batch["features"]) for batch in batches[:3]}) == 1
    assert batches[0].keys() == {"features", "target", "w_true", "index", "global_batch_size"}
    assert batches[0]["global_batch_size"] == 11
    torch.testing.assert_close(batches[0]["target"], Lines().training().columns["target"] + 5)


def test_mini_batches_visit_each_row_once_in_an_order_of_their_seed() -> None:
    orders = []
    for shuffle in (True, False):
        batches = fitted(Tables(Lines(), batch_size=4, shuffle=shuffle)).batches
        assert [batch["global_batch_size"] for batch in batches] == [4, 4, 3] * 2
        orders.append(torch.cat([batch["index"] for batch in batches[:3]]).tolist())
        assert all(torch.equal(batch["features"][:, 0], 2.0 * batch["index"]) for batch in batches)
    assert sorted(orders[0]) == list(range(11)) == orders[1] != orders[0]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_batch_has_the_modules_type_and_a_test_all_rows(batch_size: int | None) -> None:
    data = Tables(Lines(), batch_size=batch_size)
    module = fitted(data, max_epochs=1, precision="32-true")
    assert {batch[key].dtype for batch in module.batches for key in ("features", "w_true")} == {torch.float32}
    assert module.batches[0]["index"].dtype == torch.int64
    module.batches.clear()
    quiet().test(module, datamodule=data, verbose=False)
    assert [len(batch["index"]) for batch in module.batches] == [11]


def shard(batch_size: int | None) -> tuple[float, list[int], int]:
    data = Tables(Lines(), batch_size=batch_size)
    module = fitted(data, devices=2, strategy="ddp", max_epochs=3)
    return module.weight.item(), module.batches[0]["index"].tolist(), module.batches[0]["global_batch_size"]


@pytest.mark.parametrize("batch_size", [None, 7])
def test_two_processes_share_uneven_rows_and_learn_what_one_does(batch_size: int | None) -> None:
    alone = fitted(Tables(Lines(), batch_size=batch_size), max_epochs=3)
    (one, first, size), (other, second, _) = in_two_processes(shard, batch_size)
    assert one == other == pytest.approx(alone.weight.item(), abs=1e-12)
    assert size == (batch_size or 11)
    assert not set(first) & set(second)
    assert len(first) + len(second) == size


def test_it_goes_on_within_an_epoch() -> None:
    data = Tables(Lines(), loading=Loading(passes_per_epoch=5))
    data.load_state_dict({"epoch": 0, "batches": 3})
    assert len(fitted(data, max_epochs=1).batches) == 2
    whole = GlobalBatches(11, 11, passes=5)
    assert len(whole) == 5


def test_rows_and_their_truth_are_written_where_that_is_asked_for(tmp_path: Path) -> None:
    fitted(Tables(Lines(), write_rows=True, loading=Loading(seed=2)), default_root_dir=tmp_path)
    with np.load(tmp_path / "rows.npz") as written:
        assert sorted(written) == ["features", "target", "w_true"]
        np.testing.assert_array_equal(written["target"], Lines().training().columns["target"] + 2)


def test_rows_that_stay_on_the_host_are_not_moved() -> None:
    data = Tables(Lines(), rows_on_device=False)
    batch = data.transfer_batch_to_device(
        {"features": torch.zeros(1), "w_true": torch.zeros(1)}, torch.device("meta"), 0
    )
    assert {key: value.device.type for key, value in batch.items()} == {"features": "cpu", "w_true": "meta"}


@pytest.mark.parametrize("batch_size", [None, 4])
def test_rows_are_read_without_a_trainer(batch_size: int | None) -> None:
    data = Tables(Lines(), batch_size)
    data.prepare_data()
    for stage, loader in (("fit", data.train_dataloader), ("test", data.test_dataloader)):
        data.setup(stage)
        batch = next(iter(loader()))
        assert batch["features"].shape[1:] == (2,)
