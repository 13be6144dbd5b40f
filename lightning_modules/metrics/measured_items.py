"""A table of metrics with one row per item, and means over the items of all ranks."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from datamodules.distributed.collectives import all_gather


class MeasuredItems:
    """Collect metrics of individual items, batch by batch.

    Each LightningModule owns one instance, which is not saved in checkpoints.
    """

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        """One row per item of the last epoch, with `set`, `index`, `name` and the metrics; the same on all ranks."""
        self._batches: list[tuple[int, Tensor, Sequence[str], dict[str, Tensor]]] = []

    def add(self, values: dict[str, Tensor], index: Tensor, name: Sequence[str], loader: int = 0) -> None:
        """Add the metrics of a batch.

        Args:
            values: values of each metric, `[B]`, by name.
            index: positions in the dataset, `[B]`.
            name: names of the B items.
            loader: index of the dataset.
        """
        self._batches.append((loader, index, name, values))

    def means(self, set_names: Sequence[str] = ("",)) -> dict[str, dict[str, float]]:
        """End an epoch: fill `table`, and return the means by dataset and metric. Must be called on every rank.

        The means are bitwise identical for any number of ranks. If a padding sampler repeats an item on several ranks,
        the item counts once.

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
