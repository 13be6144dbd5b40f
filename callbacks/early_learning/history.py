"""History of how well training predictions agree with labels, by category and epoch."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.early_learning.counts import ROWS, category_shares, label_fit
from callbacks.early_learning.curve import detect_end
from datamodules.files.whole_files import naming, write_text

STATE = ("per_pixel", "epochs", "counts", "records", "ended_at", "curves")


class CategoryHistory:
    """The counts of each epoch, the records to which curves are fitted, and the detected ends of early learning.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.per_pixel = False
        self.epochs: list[int] = []
        self.counts = torch.zeros(0, ROWS, num_classes, dtype=torch.int64)
        """Counts over all ranks, `[epochs, 11, K]`: rows of `count_categories`, then rows of `count_right_labels`."""
        self.records = torch.zeros(0, num_classes, dtype=torch.float64)
        """The fit to the given labels at each record, `[records, K]`."""
        self.ended_at = torch.full((num_classes,), -1)
        """Epoch at which early learning ended, `[K]`; -1 if it has not ended."""
        self.curves = torch.full((num_classes, 5), torch.nan, dtype=torch.float64)
        """Last fit of each category, `[K, 5]`: a, b, c, first record and number of records; NaN without a fit."""
        self.written = 0
        """Number of epochs in the table that this process has written."""

    def append(self, epoch: int, counts: Tensor, cut: bool) -> None:
        """Add an epoch.

        Args:
            epoch: index of the epoch, from 0.
            counts: `[R + 1, 11, K]`, see `RunningCounts.close`.
            cut: whether to append the R records separately, for curve fitting; if false, the whole epoch is appended as
                one record.
        """
        self.epochs.append(epoch)
        self.counts = torch.cat([self.counts, counts.sum(dim=0, keepdim=True)])
        recorded = counts[:-1] if cut else self.counts[-1:]
        fits = label_fit(recorded[:, 0], recorded[:, 1], recorded[:, 2], self.per_pixel)
        self.records = torch.cat([self.records, fits])

    def detect(
        self, categories: list[int], per_record: float, r: float, horizon: int, min_jump: float | None
    ) -> list[int]:
        """Fit curves to the records of some categories, and return the categories whose early learning has ended.

        The other arguments are those of `curve.detect`.
        """
        ended = []
        for category in categories:
            found = detect_end(self.records[:, category].numpy(), per_record, r, horizon, min_jump)
            if found is None:
                continue
            if self.ended_at[category] < 0:
                fitted = [*found.curve, found.start, len(self.records) - found.start]
                self.curves[category] = torch.tensor(fitted, dtype=torch.float64)
            if self.epochs[-1] >= found.end:
                ended.append(category)
        return ended

    def write(self, path: Path) -> None:
        """Write one row for each category in each epoch as CSV. Unknown fractions are empty cells.

        The first call of a process writes the whole file; later calls append the new epochs, as no row ever changes.
        """
        start = self.written if path.is_file() else 0
        new, counts = self.epochs[start:], self.counts[start:]
        epoch, ended_at = np.repeat(new, self.num_classes), np.tile(self.ended_at, len(new))
        columns = {
            "epoch": epoch,
            "category": np.tile(np.arange(self.num_classes), len(new)),
            **{name: share.flatten().numpy() for name, share in category_shares(counts, self.per_pixel).items()},
            "ended": ((ended_at >= 0) & (ended_at <= epoch)).astype(int),
        }
        cells = [["" if value != value else value for value in column.tolist()] for column in columns.values()]
        rows = io.StringIO()
        csv.writer(rows).writerows([*([] if start else [columns]), *zip(*cells, strict=True)])
        if start:
            with naming(path), path.open("a", newline="", encoding="utf-8") as file:
                file.write(rows.getvalue())
        else:
            write_text(path, rows.getvalue())
        self.written = len(self.epochs)

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key in STATE:
            setattr(self, key, state_dict[key])
