"""The rows that get weights and those that are trusted, whole on each process, and the batches that are drawn."""

from collections.abc import Mapping

import torch
from torch import Tensor

from datamodules.distributed.world import run_seed
from datamodules.randomness.generators import generator_of
from lightning_modules.optimization.mbbo.reweighting import Batch, WeightedSamples, with_one


class WeightedRows:
    """Training rows of a table, as `datamodules.tables.trusted_rows.TrustedRows` gives them.

    Args:
        rows: `features`, `target`, `trusted` and, where it is known, `corrupted`, by name.
        samples: n, most rows that may get weights.
        features: D - 1.

    Raises:
        ValueError: if the rows do not fit.
    """

    def __init__(self, rows: Mapping[str, Tensor], samples: int, features: int) -> None:
        if "trusted" not in rows:
            raise ValueError(
                "weights need rows that are trusted: data.table of datamodules.tables.trusted_rows.TrustedRows"
            )
        trusted, width = rows["trusted"], rows["features"].shape[1]
        if width != features:
            raise ValueError(f"model.features must be {width}, as many as rows have, got {features}")
        if (count := int((~trusted).sum())) > samples:
            raise ValueError(f"model.samples must be at least {count}, the rows that get weights, got {samples}")
        z, target = with_one(rows["features"].double()), rows["target"].double()
        self.training = z[~trusted], target[~trusted]
        self.trusted = z[trusted], target[trusted]
        self.corrupted = rows["corrupted"][~trusted] if "corrupted" in rows else torch.zeros(count, dtype=torch.bool)

    def to(self, device: torch.device) -> None:
        """Put all rows on a device."""
        self.training = self.training[0].to(device), self.training[1].to(device)
        self.trusted = self.trusted[0].to(device), self.trusted[1].to(device)
        self.corrupted = self.corrupted.to(device)

    def drawn(self, shape: tuple[int, ...], purpose: int, number: int) -> tuple[Tensor, Tensor]:
        """Draw positions of rows that get weights and of trusted ones, with replacement, the same on all processes."""
        random = generator_of(run_seed(), purpose, number)
        sizes = len(self.training[1]), len(self.trusted[1])
        training, trusted = (torch.randint(size, shape, generator=random) for size in sizes)
        return training, trusted

    def batch(self, training: Tensor, trusted: Tensor, temperature: Tensor) -> Batch:
        """Take rows `[k, B]` of both parts for k blocks with temperatures `[k]`."""

        def samples(rows: tuple[Tensor, Tensor], place: Tensor) -> WeightedSamples:
            place = place.to(temperature.device, non_blocking=True)
            return WeightedSamples(rows[0][place], rows[1][place] / temperature[:, None], place)

        return Batch(samples(self.training, training), samples(self.trusted, trusted))

    def whole(self, temperature: Tensor) -> Batch:
        """Take all rows for each of k blocks with temperatures `[k]`."""
        sizes = len(self.training[1]), len(self.trusted[1])
        training, trusted = (torch.arange(size).expand(len(temperature), -1) for size in sizes)
        return self.batch(training, trusted, temperature)
