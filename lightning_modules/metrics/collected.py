"""Gather rows from all batches and ranks, in dataset order."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Collected(Metric):
    """Concatenate rows `[B, F]` and their positions over batches and ranks; ranks may have different numbers of rows.

    If a padding sampler repeats a sample, its repeated rows are dropped.
    """

    full_state_update = False
    index: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.set_dtype(torch.float64)
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, rows: Tensor) -> None:
        """Add dataset positions `index` `[B]`, int64, and `rows` `[B, F]`, float64."""
        self.index.append(index.detach().clone())
        self.rows.append(rows.detach())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the positions `[N]` in ascending order, and the rows `[N, F]` in the same order, on the CPU."""
        index, order = dim_zero_cat(self.index).cpu().sort(stable=True)
        first = torch.cat([torch.ones(1, dtype=torch.bool), index[1:] != index[:-1]])
        return index[first], dim_zero_cat(self.rows).cpu()[order][first]
