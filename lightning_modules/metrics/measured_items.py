"""Metrics of individual items, one row each, and their means over all ranks."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from datamodules.distributed.collectives import all_gather


class MeasuredItems:
    """Collect metrics of individual items, batch by batch. A module owns one instance; checkpoints do not include
    it."""

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        """A row for each item of the last epoch: `set`, `index`, `name` and the metrics; the same on all ranks."""
        self._batches: list[tuple[int, Tensor, Sequence[str], dict[str, Tensor]]] = []

    def add(self, values: dict[str, Tensor], index: Tensor, name: Sequence[str], loader: int = 0) -> None:
        """Add a batch.

        Args:
            values: `[B]` for each metric.
            index: `[B]`, position in the dataset.
            name: `[B]`, names of the items.
            loader: index of the dataset.
        """
        self._batches.append((loader, index, name, values))

    def means(self, set_names: Sequence[str] = ("",)) -> dict[str, dict[str, float]]:
        """End an epoch: fill `table` and return the means by dataset name and metric. Must be called on every rank.

        The means are the same, bit for bit, for any number of ranks. If a padding sampler repeats an item on several
        ranks, the item counts once.

        Args:
            set_names: names of the datasets, by index.
        """
        own = {}
        for loader, index, names, values in self._batches:
            columns = {key: value.cpu().tolist() for key, value in values.items()}
            for row, position in enumerate(index.tolist()):
                measured = {key: value[row] for key, value in columns.items()}
                own[loader, position] = {"name": names[row], **measured}
        self._batches = []
        rows = {place: row for share in all_gather(own) for place, row in share.items()}
        self.table = [{"set": set_names[place[0]], "index": place[1], **rows[place]} for place in sorted(rows)]
        found: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(row["set"] for row in self.table):
            of_set = [row for row in self.table if row["set"] == name]
            keys = [key for key in of_set[0] if key not in ("set", "index", "name")]
            found[name] = {key: sum(row[key] for row in of_set) / len(of_set) for key in keys}
        return found
