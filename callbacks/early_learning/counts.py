"""Count predictions and labels per category, and compute the fit to the labels and the memorisation from the counts.

For each category k, the following fractions are computed from the given labels y (possibly wrong), the true labels y*
if known, and the training predictions p:

    fit to the given labels    fraction of the samples with y = k that have p = k; for pixels IoU of {p = k}, {y = k}
    fit to the true labels     the same with y*
    memorised fraction         fraction of the samples (pixels) with y = k and y* != k that have p = k

Counts are stored instead of fractions, because counts can be added over batches and ranks.

Source: Liu et al., Adaptive Early-Learning Correction for Segmentation from Noisy Annotations, CVPR 2022, arXiv
2110.03740 (fit); Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020, arXiv
2007.00151 (memorisation).
"""

from typing import Any

import torch
from torch import Tensor

from datamodules.distributed.collectives import all_reduce_sum, rank
from lightning_modules.interfaces import IGNORED

ROWS = 11  # rows of counts: 8 from `count_categories` and 3 from `count_right_labels`


def count_categories(logits: Tensor, given: Tensor, true: Tensor | None = None) -> Tensor:
    """Count predictions by given and by true label; all fractions except label accuracy follow from these counts.

    Args:
        logits: logits of the classifier, `[B, K]`, or `[B, K, H, W]` for pixels.
        given: given labels, `[B]` or `[B, H, W]`, int64. Labels outside 0 ... K - 1 are ignored. For pixels, the label
            255 is always ignored, too.
        true: true labels, shaped like `given`; None if unknown.

    Returns:
        `[8, K]`, int64. Row 1 counts the samples with given label k, row 2 those with prediction k and a known given
        label, and row 3 those with given label k and prediction k. Rows 4 to 6 are the same counts with the true label.
        Row 7 counts the samples whose given label k is false. Row 8 counts the samples of row 7 that have prediction k.
        Without `true`, rows 4 to 8 are 0.
    """
    num_classes = logits.shape[1]
    predicted = logits.argmax(dim=1).flatten()
    given = _known_values(given, num_classes)
    bins = _fit_bins(predicted, given, num_classes)
    if true is not None:
        true = _known_values(true, num_classes)
        false = torch.where((given != true) & (true < num_classes), given, num_classes)
        bins += [
            *_fit_bins(predicted, true, num_classes),
            *(false, torch.where(predicted == false, false, num_classes)),
        ]
    return torch.nn.functional.pad(_tally(bins, num_classes), (0, 0, 0, 8 - len(bins)))


def count_right_labels(current: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """Count the correct ones among the current labels, to measure the quality of label correction.

    Args:
        current: labels used for training, `[B]` or `[B, H, W]`, int64.
        true: true labels, shaped like `current`. Ignored entries are not counted.
        num_classes: K.

    Returns:
        `[3, K]`, int64. The three rows count, for each class k, the entries whose true label is k, the entries whose
        current label is k and whose true label is known, and the entries for which both labels are k.
    """
    return _tally(
        _fit_bins(_known_values(current, num_classes), _known_values(true, num_classes), num_classes), num_classes
    )


def _known_values(label: Tensor, num_classes: int) -> Tensor:
    """Flatten labels, and replace ignored labels by the bin K."""
    inside = (label >= 0) & (label < num_classes)
    if label.ndim > 1:
        inside &= label != IGNORED
    return torch.where(inside, label, num_classes).flatten()


def _fit_bins(predicted: Tensor, label: Tensor, num_classes: int) -> list[Tensor]:
    """Return three arrays of bins: the labels, the predictions, and the labels that equal the prediction."""
    among = torch.where(label < num_classes, predicted, num_classes)
    return [label, among, torch.where(predicted == label, label, num_classes)]


def _tally(bins: list[Tensor], num_classes: int) -> Tensor:
    """Return the sizes of the bins 0 ... K - 1, `[len(bins), K]`, without bin K."""
    counts = torch.zeros(len(bins), num_classes + 1, dtype=torch.int64, device=bins[0].device)
    ones = torch.ones((), dtype=torch.int64, device=bins[0].device).expand(len(bins), len(bins[0]))
    return counts.scatter_add_(1, torch.stack(bins), ones)[:, :num_classes]


def label_fit(labelled: Tensor, predicted: Tensor, both: Tensor, per_pixel: bool) -> Tensor:
    """Compute the fit of predictions to labels, from counts of equal shapes.

    Returns:
        The fit in [0, 1], float64. For whole samples, the fit is both / labelled, or NaN if `labelled` is 0. For
        pixels, the fit is the IoU, both / (predicted + labelled - both + 1e-10).
    """
    if per_pixel:
        return both.double() / ((predicted + labelled - both).double() + 1e-10)
    return both.double() / labelled.double()


def category_shares(counts: Tensor, per_pixel: bool) -> dict[str, Tensor]:
    """Compute the fractions of each category from counts `[..., 11, K]`; fractions that cannot be computed are NaN."""
    given, given_predicted, given_both, true, true_predicted, true_both, false, memorized, *_ = counts.unbind(-2)
    fit_true = label_fit(true, true_predicted, true_both, per_pixel)
    has_true = true.sum(dim=-1, keepdim=True) > 0
    return {
        "fit_given": label_fit(given, given_predicted, given_both, per_pixel),
        "fit_true": torch.where(has_true, fit_true, torch.nan),
        "memorized": memorized.double() / false,
    }


def overall_shares(counts: Tensor, per_pixel: bool) -> dict[str, Tensor]:
    """Compute fractions over all samples from counts `[..., 11, K]`.

    For pixels, each fit is a mean IoU over the categories that occur.
    """
    fits = {"fit_given": counts[..., :3, :], "fit_true": counts[..., 3:6, :], "label_quality": counts[..., 8:, :]}
    total = counts.sum(dim=-1)
    if per_pixel:
        overall = {}
        for name, fit in fits.items():
            labelled, predicted, both = fit.unbind(dim=-2)
            iou = label_fit(labelled, predicted, both, per_pixel=True)
            occurs = (labelled + predicted > 0) & (labelled.sum(dim=-1, keepdim=True) > 0)
            overall[name] = torch.where(occurs, iou, torch.nan).nanmean(dim=-1)
    else:
        overall = {name: fit[..., 2, :].sum(dim=-1).double() / fit[..., 0, :].sum(dim=-1) for name, fit in fits.items()}
    overall["memorized"] = total[..., 7].double() / total[..., 6]
    return overall


class RunningCounts:
    """This rank's counts of the current epoch, split into records.

    Batches are numbered from the start of training. A record ends after each batch whose number is a multiple of the
    interval, and at the end of the epoch. A checkpoint contains the counts summed over ranks. When a checkpoint is
    loaded, rank 0 receives all counts, and the other ranks start from 0.

    Args:
        num_classes: K.
        interval: number of batches per record; None does not split the epoch.
    """

    def __init__(self, num_classes: int, interval: int | None) -> None:
        self.interval = interval
        self.batches = 0  # since training began
        self.epoch: int | None = None  # None between two epochs
        self.records: list[Tensor] = []
        self.rest = torch.zeros(ROWS, num_classes, dtype=torch.int64)  # since the last record

    def to(self, device: torch.device) -> None:
        """Move the counts to the device of the counts that will be added."""
        self.records, self.rest = [record.to(device) for record in self.records], self.rest.to(device)

    def add(self, epoch: int, counts: Tensor) -> None:
        """Add the counts of a batch, `[11, K]`."""
        self.epoch = epoch
        self.rest = self.rest + counts
        if self.interval is not None and self.batches % self.interval == 0:
            self.records.append(self.rest)
            self.rest = torch.zeros_like(self.rest)
        self.batches += 1

    def close(self) -> Tensor:
        """End the epoch, and return the counts summed over ranks, `[R + 1, 11, K]`.

        The last entry has the counts since the last of the R records.
        """
        counts = self._over_processes()
        self.epoch, self.records, self.rest = None, [], torch.zeros_like(self.rest)
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Return the state. Must be called on every rank, because counts are summed over ranks."""
        counts = None if self.epoch is None else self._over_processes()
        return {"epoch": self.epoch, "batches": self.batches, "counts": counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.batches = state_dict["epoch"], state_dict["batches"]
        if (counts := state_dict["counts"]) is not None:
            *self.records, self.rest = counts if rank() == 0 else torch.zeros_like(counts)

    def _over_processes(self) -> Tensor:
        return all_reduce_sum(torch.stack([*self.records, self.rest])).cpu()
