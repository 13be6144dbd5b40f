"""Weights that swing between two levels: how they are counted, drawn, and calmed by confidence-guided annealing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.efficiency.ofq.conversion import QuantizedRows
from lightning_modules.efficiency.ofq.quantizers import near_threshold, positions
from lightning_modules.interfaces import Table

MOMENTUM = 0.01
"""Of the average of oscillations."""
OFTEN = 0.005
"""Above this average a weight counts as oscillating, as Nagel et al. have it."""
BINS_PER_STEP = 10
PLACE = "latent weight n W / s, in steps"


class OscillationTracker(nn.Module):
    """Follows how often each integer of a quantised weight turns back.

    An oscillation is a change whose sign is opposite to that of the change before it, however long ago.

    Source: Nagel, Fournarakis, Bondarenko and Blankevoort, Overcoming Oscillations in Quantization-Aware Training,
    ICML 2022, arXiv 2203.11086.

    Args:
        shape: of the weight.
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
        """Begin with the integers before the first step."""
        self.last.copy_(integers)
        self.direction.zero_()
        self.frequency.zero_()

    @torch.no_grad()
    def update(self, integers: Tensor) -> Tensor:
        """Take the integers after a step, and tell which have oscillated in it; bool, of their shape."""
        change = (integers - self.last).sign().to(torch.int8)
        oscillated = change * self.direction == -1
        self.frequency.lerp_(oscillated.to(self.frequency.dtype), MOMENTUM)
        self.direction.copy_(torch.where(change != 0, change, self.direction))
        self.last.copy_(integers)
        return oscillated


def share_of(marked: Sequence[Tensor]) -> Tensor:
    """Compute the part of all entries of bool tensors that is true."""
    return sum(each.sum() for each in marked) / sum(each.numel() for each in marked)  # type: ignore[return-value]


class Annealing:
    """Trains weights that are near a threshold alone, for one step: the others have no gradient and do not move.

    Args:
        rows: what StatsQ quantises.
        boundary: BR, distance from a threshold in steps within which a weight trains.
    """

    def __init__(self, rows: Sequence[QuantizedRows], boundary: float) -> None:
        self.rows = rows
        self.boundary = boundary
        self._held: list[tuple[QuantizedRows, Tensor, Tensor]] = []

    @torch.no_grad()
    def mask(self) -> Tensor:
        """Take the gradients of frozen weights away, keep what they are, and give the part of weights that trains."""
        masks = []
        self._held = []
        for rows in self.rows:
            trains = near_threshold(rows.weight, rows.bits, self.boundary)
            masks.append(trains)
            if rows.gradient is not None:
                rows.gradient.masked_fill_(~trains, 0)
                self._held.append((rows, trains, rows.weight.clone()))
        return share_of(masks)

    @torch.no_grad()
    def restore(self) -> None:
        """Give frozen weights their values back, which momentum and decay have changed."""
        for rows, trains, before in self._held:
            rows.weight.copy_(torch.where(trains, rows.weight, before))
        self._held = []


@torch.no_grad()
def latent_weights(rows: Sequence[QuantizedRows], oscillating: Callable[[int], Tensor] | None, bits: int) -> Table:
    """Make a histogram of latent weights between thresholds, of all and of those that oscillate.

    Args:
        rows: what StatsQ quantises.
        oscillating: which entries of the rows of a number oscillate; None leaves them out.
        bits: of the weights.
    """
    n = 2 ** (bits - 1)
    bins, low, high = BINS_PER_STEP * 2 * (n + 1), -n - 1.0, n + 1.0
    counts = {"all weights": torch.zeros(bins), "oscillating weights": torch.zeros(bins)}
    for number, each in enumerate(rows):
        place = (positions(each.weight, bits) + 0.5).float().cpu()
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
    return Table(columns, title=f"thresholds are the whole numbers {1 - n} ... {n - 1}")
