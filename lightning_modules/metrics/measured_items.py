"""Measures of a set's items, each with its own row, and their means over all processes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from datamodules.distributed.collectives import all_gather


class MeasuredItems:
    """Collects what is measured of each item, a batch at a time. A module owns one; checkpoints hold nothing of it."""

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        """A row for each item of the last epoch: `set`, `index`, `name` and the measures; the same on all processes."""
        self._batches: list[tuple[int, Tensor, Sequence[str], dict[str, Tensor]]] = []

    def add(self, values: dict[str, Tensor], index: Tensor, name: Sequence[str], loader: int = 0) -> None:
        """Add a batch.

        Args:
            values: by the measure, `[B]`.
            index: `[B]`, position in the set.
            name: `[B]`, names of the items.
            loader: number of the set.
        """
        self._batches.append((loader, index, name, values))

    def means(self, set_names: Sequence[str] = ("",)) -> dict[str, dict[str, float]]:
        """End an epoch: fill `table` and give each set's means by its name and the measure. Every process calls it.

        They are the same whatever the number of processes, to the last bit; an item that several processes had, as
        samplers that fill up the last batch cause, counts once.

        Args:
            set_names: names of the sets by their numbers.
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
