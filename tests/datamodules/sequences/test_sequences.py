"""Batches of sequences: keys, dtypes, order and ground truth."""

from typing import Any

import torch
from lightning.pytorch import LightningModule

from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.sequences.bridge_paths import BridgePaths
from datamodules.sequences.moving_digits import MovingDigits
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
    assert training[0].keys() == {"observed", "sigma", "interval", "index", "global_batch_size"}
    assert training[0]["interval"] == data.interval == 0.5
    assert training[0]["sigma"].tolist() == [torch.inf] * 4 + [0.5]
    [first, *_] = batches(data, "test", torch.float64)
    assert {first[key].dtype for key in ("observed", "sigma", "exact_std")} == {torch.float64}
    time = torch.arange(5, dtype=torch.float64) / 2
    torch.testing.assert_close(first["exact_std"], (time - time**2 / 2.25).sqrt())  # deviation of a Brownian bridge


def test_frames_are_in_the_unit_interval_and_new_in_each_epoch() -> None:
    digits = MovingDigits(Digits(), image_size=20, digit_size=16, num_times=3, num_training=8)
    data = Sequences(digits, 8, loading=Loading(num_workers=0, seed=3))
    [first] = batches(data, "fit", torch.float32)
    assert first.keys() == {"observed", "interval", "index", "global_batch_size"}
    assert first["observed"].dtype == torch.float32
    assert (first["observed"].min(), first["observed"].max()) == (0, 1)
    assert digits.seed is None  # the data's seed is set only in their copy
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)  # type: ignore[union-attr, attr-defined]
    [second] = loader
    order = second["index"].argsort()
    assert not torch.equal(second["observed"][order], data.train_set[Request(torch.arange(8), 0, 8)]["observed"])
