"""Measurement of oscillations of weights between two levels, and their prevention by confidence-guided annealing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.efficiency.ofq.conversion import QuantizedRows
from lightning_modules.efficiency.ofq.quantizers import near_threshold
from lightning_modules.interfaces import Table

MOMENTUM = 0.01
"""Momentum of the running average of oscillations."""
OFTEN = 0.005
"""A weight counts as oscillating if its running average is above this threshold, which is that of Nagel et al."""
BINS_PER_STEP = 10
PLACE = "latent weight n W / s, in steps"


class OscillationTracker(nn.Module):
    """Running averages of how often the integer of each entry of a quantised weight reverses its direction.

    An oscillation is a change of the integer whose direction is opposite to that of the previous change, which may be
    any number of steps earlier.

    Source: Nagel, Fournarakis, Bondarenko and Blankevoort, Overcoming Oscillations in Quantization-Aware Training,
    ICML 2022, arXiv 2203.11086.

    Args:
        shape: shape of the quantised weight.
    """

    last: Tensor
    direction: Tensor
    frequency: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(*shape, dtype=torch.int8))
        self.register_buffer("direction", torch.zeros(*shape, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros(*shape))

    @torch.no_grad()
    def start(self, integers: Tensor) -> None:
        """Store the integers that precede the first step, and reset the statistics."""
        self.last.copy_(integers)
        self.direction.zero_()
        self.frequency.zero_()

    @torch.no_grad()
    def update(self, integers: Tensor) -> Tensor:
        """Update the statistics after a step; return a bool mask of the integers that oscillated in this step."""
        change = (integers - self.last).sign().to(torch.int8)
        oscillated = change * self.direction == -1
        self.frequency.lerp_(oscillated.to(self.frequency.dtype), MOMENTUM)
        self.direction.copy_(torch.where(change != 0, change, self.direction))
        self.last.copy_(integers)
        return oscillated


def share_of(marked: Sequence[Tensor]) -> Tensor:
    """Compute the fraction of entries that are true, over all bool tensors together."""
    return sum(each.sum() for each in marked) / sum(each.numel() for each in marked)  # type: ignore[return-value]


class Annealing:
    """Confidence-guided annealing, which freezes, in each step, all weights that are not near a rounding threshold.

    Args:
        rows: quantised rows to anneal.
        boundary: maximum distance BR, in quantisation steps, between a rounding threshold and the weights that are
            trained.
    """

    def __init__(self, rows: Sequence[QuantizedRows], boundary: float) -> None:
        self.rows = rows
        self.boundary = boundary
        self._held: list[tuple[QuantizedRows, Tensor, Tensor]] = []

    @torch.no_grad()
    def mask(self) -> Tensor:
        """Set the gradients of frozen weights to 0, save the weights, and return the fraction that is not frozen."""
        masks = []
        self._held = []
        for rows in self.rows:
            trains = near_threshold(rows.positions, rows.bits, self.boundary)
            masks.append(trains)
            if rows.gradient is not None:
                rows.gradient.masked_fill_(~trains, 0)
                self._held.append((rows, trains, rows.weight.clone()))
        return share_of(masks)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the values of frozen weights, which momentum and weight decay may have changed."""
        for rows, trains, before in self._held:
            rows.weight.copy_(torch.where(trains, rows.weight, before))
        self._held = []


@torch.no_grad()
def latent_weights(rows: Sequence[QuantizedRows], oscillating: Callable[[int], Tensor] | None, bits: int) -> Table:
    """Compute a histogram of positions relative to the thresholds for all weights, and another for oscillating weights.

    Args:
        rows: quantised rows.
        oscillating: function that maps i to the mask of oscillating entries in `rows[i]`; None omits the second
            histogram.
        bits: number of bits of the weights.
    """
    n = 2 ** (bits - 1)
    bins, low, high = BINS_PER_STEP * 2 * (n + 1), -n - 1.0, n + 1.0
    counts = {"all weights": torch.zeros(bins), "oscillating weights": torch.zeros(bins)}
    for number, each in enumerate(rows):
        place = (each.positions + 0.5).float().cpu()
        counts["all weights"] += torch.histc(place, bins, low, high)
        if oscillating is not None:
            counts["oscillating weights"] += torch.histc(place[oscillating(number).cpu()], bins, low, high)
    width = (high - low) / bins
    middles = [low + (place + 0.5) * width for place in range(bins)]
    columns: dict[str, list[object]] = {PLACE: [], "weights": [], "density": []}
    for name, count in counts.items():
        if count.sum() > 0:
            columns[PLACE] += middles
            columns["weights"] += bins * [name]
            columns["density"] += (count / count.sum() / width).tolist()
    return Table(columns, title=f"thresholds are the integers {1 - n} ... {n - 1}")
