"""Batches of sequences: keys, types, order and truth."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from datamodules.sequences.bridge_paths import BridgePaths
from datamodules.sequences.sequences import Sequences
from tests.trainers import quiet


def batches(data: Sequences, stage: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    data.trainer = quiet()
    data.trainer.strategy._lightning_module = LightningModule().to(dtype)
    data.setup(stage)
    loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_batches_of_bridges() -> None:
    data = Sequences(BridgePaths(0.5, "II", num_times=5, sigma=0.5, num_training=5, num_test=4), 3)
    training = batches(data, "fit", torch.float32)
    assert [len(batch["observed"]) for batch in training] == [3, 2]
    assert training[0]["observed"].shape == (3, 5, 1)
    assert training[0].keys() == {"observed", "sigma", "interval", "index", "global_size"}
    assert training[0]["interval"] == data.interval == 0.5
    assert training[0]["sigma"].tolist() == [torch.inf] * 4 + [0.5]
    [first, *_] = batches(data, "test", torch.float64)
    assert {first[key].dtype for key in ("observed", "sigma", "exact_std")} == {torch.float64}
    time = torch.arange(5, dtype=torch.float64) / 2
    torch.testing.assert_close(first["exact_std"], (time - time**2 / 2.25).sqrt())  # of a Brownian bridge
