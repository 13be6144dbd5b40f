"""Byzantine-robust aggregation rules.

Vectors are rows of a table `[m, D]`. Row indices tell which vectors a node receives. The vector sent by all Byzantine
nodes is therefore stored only once. A row with non-finite values counts as infinitely far from all other rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import positive
from lightning_modules.full_precision import at_least_float32

AT_ONCE = 2**24
"""Number of values sorted at once."""


def distances(own: Tensor, vectors: Tensor) -> Tensor:
    """Compute `|own_i - vectors_j|`, `[k, m]`.

    It uses differences, as models are far from 0 and close to each other.
    """
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(at_least_float32(own), at_least_float32(vectors), compute_mode=exact).nan_to_num(torch.inf)


def finite(vectors: Tensor) -> Tensor:
    """Replace rows with non-finite values by 0.

    Such rows have weight 0.
    """
    return torch.where(vectors.isfinite().all(dim=1, keepdim=True), vectors, 0)


def weighted_sum(vectors: Tensor, heard: Tensor, weight: Tensor) -> Tensor:
    """Compute weighted sums `[k, D]` of the vectors in rows `heard` `[k, h]`.

    The weights are `[k, h]`.
    """
    return F.embedding_bag(heard, vectors, per_sample_weights=weight.to(vectors.dtype), mode="sum")


def nearest(distance: Tensor, heard: Tensor, keep: int) -> Tensor:
    """Select from `heard` `[k, h]` the indices of the `keep` nearest rows, `[k, keep]`.

    In a tie, select the earlier index.

    Args:
        distance: distance of the vector of each node to all rows of the table, `[k, m]`.
        heard: indices of the received rows in the table.
        keep: number of indices to select.
    """
    order = distance.gather(1, heard).sort(dim=1, stable=True).indices
    return heard.gather(1, order[:, :keep])


def by_coordinates(vectors: Tensor, heard: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """Combine the received values of each coordinate, `[k, D]`.

    Args:
        vectors: all sent vectors, `[m, D]`.
        heard: indices of the received rows for each node, `[k, h]`.
        combine: function of sorted values `[k, h, D']` that returns `[k, D']`; NaN comes last.
    """
    parts = vectors.split(max(1, AT_ONCE // heard.numel()), dim=1)
    return torch.cat([combine(part[heard].sort(dim=1).values) for part in parts], dim=1)


def trimmed_mean(vectors: Tensor, heard: Tensor, trim: int) -> Tensor:
    """Average each coordinate of the received vectors, `[k, D]`.

    The `trim` lowest and `trim` highest values are left out.
    """
    last = heard.shape[1] - trim
    return by_coordinates(vectors, heard, lambda value: value[:, trim:last].mean(dim=1))


def middle(value: Tensor) -> Tensor:
    """Compute the median of sorted values `[k, h, D]` over h, `[k, D]`; for even h, the mean of both middle values."""
    h = value.shape[1]
    return value[:, (h - 1) // 2 : h // 2 + 1].mean(dim=1)


def mean_around_median(vectors: Tensor, heard: Tensor, keep: int) -> Tensor:
    """Average the `keep` values of each coordinate that are nearest to the median of the coordinate, `[k, D]`.

    The received vectors are those in rows `heard` `[k, h]`. In a tie, the lower value is kept.
    """

    def combine(value: Tensor) -> Tensor:
        order = (value - middle(value)[:, None]).abs().sort(dim=1, stable=True).indices
        return value.gather(1, order[:, :keep]).mean(dim=1)

    return by_coordinates(vectors, heard, combine)


def krum(vectors: Tensor, heard: Tensor, neighbours: int) -> Tensor:
    """Select the received vector with the least score, `[k, D]`.

    The score of a vector is the sum of squared distances to the `neighbours` nearest other received vectors. In a tie,
    the earlier vector is selected.
    """
    squared = distances(vectors, vectors).square()[heard[:, :, None], heard[:, None, :]]
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # no vector is its own neighbour
    score = squared.sort(dim=2).values[:, :, :neighbours].sum(dim=2)
    return vectors[heard.gather(1, score.argmin(dim=1, keepdim=True))[:, 0]]


def geometric_median(vectors: Tensor, heard: Tensor, iterations: int = 3, smoothing: float = 0.1) -> Tensor:
    """Approximate the geometric median of the received vectors by smoothed Weiszfeld iterations from 0, `[k, D]`.

    z <- sum_j b_j x_j / sum_j b_j,  b_j = 1 / max(|x_j - z|, nu).
    """
    centre, summed = vectors.new_zeros(len(heard), vectors.shape[1]), finite(vectors)
    for _ in range(iterations):
        weight = 1 / distances(centre, vectors).gather(1, heard).clamp(min=smoothing)
        centre = weighted_sum(summed, heard, weight / weight.sum(dim=1, keepdim=True))
    return centre


def self_centred_clipping(own: Tensor, vectors: Tensor, heard: Tensor, radius: float, iterations: int = 3) -> Tensor:
    """Move from the vector of a node by the mean of the clipped differences to the received vectors, `[k, D]`.

    v <- v + (1/h) sum_j (x_j - v) min(1, tau / |x_j - v|).
    """
    centre, summed = own, finite(vectors)
    for _ in range(iterations):
        scale = (radius / distances(centre, vectors).gather(1, heard)).clamp(max=1) / heard.shape[1]
        centre = centre + weighted_sum(summed, heard, scale) - centre * scale.sum(dim=1, keepdim=True).to(centre.dtype)
    return centre


class Rule(ABC):
    """A rule that aggregates the vectors that a node receives into one vector."""

    centred = False
    """Whether the rule depends on which of the vectors is the node's own."""

    @abstractmethod
    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        """Compute the new vector of each node, `[k, D]`.

        Args:
            own: vectors of k nodes, `[k, D]`.
            vectors: all sent vectors, `[m, D]`.
            heard: indices of h rows of `vectors` for each node, `[k, h]`.
            byzantine: number f of received vectors that may be wrong.
        """

    def most_byzantine(self, nodes: int) -> int:
        """Return the maximum f for n nodes.

        It satisfies f < n / 3, since a node receives n - f vectors and needs 2f < n - f.
        """
        return (nodes - 1) // 3

    def answer(self, honest: Tensor, byzantine: int) -> Callable[[Tensor], Tensor]:
        """Return the mean output of the rule as a function of the Byzantine vector.

        The mean is over honest nodes that receive the vectors of all nodes.

        Args:
            honest: vectors sent by the honest nodes, `[H, D]`.
            byzantine: f.
        """
        own = honest if self.centred else honest[:1]
        heard = all_heard(len(honest), byzantine, honest.device).expand(len(own), -1)
        return lambda sent: self(own, torch.cat([honest, sent[None]]), heard, byzantine).mean(dim=0)

    def harm_along(self, honest: Tensor, byzantine: int, direction: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function eta -> |answer(mean + eta direction) - mean|^2.

        Here mean is the mean over the honest nodes.

        Args:
            honest: vectors sent by the honest nodes, `[H, D]`.
            byzantine: f.
            direction: `[D]`.

        Returns:
            The function, which maps a number eta to a number.
        """
        mean, answer = honest.mean(dim=0), self.answer(honest, byzantine)
        return lambda eta: (answer(mean + eta * direction) - mean).square().sum()


def all_heard(honest: int, byzantine: int, device: torch.device) -> Tensor:
    """Return the indices of all H honest rows, followed by f copies of the index of the next row, `[1, H + f]`."""
    return torch.arange(honest + byzantine, device=device).clamp(max=honest)[None]


class NearestNeighborAveraging(Rule):
    """Rule of MoNNA: average the h - f vectors that are nearest to the vector of the node, including that vector."""

    centred = True

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        chosen = nearest(distances(own, vectors), heard, heard.shape[1] - byzantine)
        return F.embedding_bag(chosen, vectors, mode="mean")  # reads only the chosen rows

    def answer(self, honest: Tensor, byzantine: int) -> Callable[[Tensor], Tensor]:
        between, summed = distances(honest, honest), finite(honest)  # independent of the sent vector
        heard = all_heard(len(honest), byzantine, honest.device).expand(len(honest), -1)
        places = torch.arange(len(honest), device=honest.device)[None]

        def mean(sent: Tensor) -> Tensor:
            distance = torch.cat([between, distances(honest, sent[None])], dim=1)
            chosen = nearest(distance, heard, len(honest)).flatten()
            counts = between.new_zeros(len(honest) + 1).scatter_add(0, chosen, between.new_ones(len(chosen)))
            share = (counts / len(chosen)).to(sent.dtype)
            return weighted_sum(summed, places, share[None, :-1])[0] + torch.where(share[-1] > 0, share[-1] * sent, 0)

        return mean

    def harm_along(self, honest: Tensor, byzantine: int, direction: Tensor) -> Callable[[Tensor], Tensor]:
        """The value at any eta is computed from the inner products of x_i - mean and the direction.

        |x_i - mean - eta u|^2 = |x_i - mean|^2 - 2 eta <x_i - mean, u> + eta^2 |u|^2.
        """
        between, number = distances(honest, honest), len(honest)
        heard = all_heard(number, byzantine, honest.device).expand(number, -1)
        known = honest.isfinite().all(dim=1)
        rows = at_least_float32(
            torch.cat([torch.where(known[:, None], honest - honest.mean(dim=0), 0), direction[None]])
        )
        products = (rows @ rows.T).double()
        own, along, length = products.diagonal()[:-1], products[:-1, -1], products[-1, -1]

        def harm(eta: Tensor) -> Tensor:
            sent = (own - 2 * eta * along + eta**2 * length).clamp(min=0).sqrt()
            sent = torch.where(known, sent, torch.inf).to(between.dtype)
            chosen = nearest(torch.cat([between, sent[:, None]], dim=1), heard, number).flatten()
            counts = products.new_zeros(number + 1).scatter_add(0, chosen, products.new_ones(len(chosen)))
            weight = counts / len(chosen)
            weight = torch.cat([weight[:-1], weight[-1:] * eta])
            return weight @ products @ weight

        return harm


class Average(Rule):
    """Average all received vectors, as in D-SGD. This baseline tolerates no Byzantine node."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return F.embedding_bag(heard, vectors, mode="mean")

    def most_byzantine(self, nodes: int) -> int:
        return (nodes - 1) // 2  # so that a node still receives its own vector


class TrimmedMean(Rule):
    """Average each coordinate without its f lowest and f highest values (BRIDGE; with momentum, MoCWTM)."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return trimmed_mean(vectors, heard, byzantine)


class CoordinatewiseMedian(Rule):
    """Take the median of each coordinate."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return by_coordinates(vectors, heard, middle)


class MeanAroundMedian(Rule):
    """Average the h - f values of each coordinate that are nearest to its median (MeaMed)."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return mean_around_median(vectors, heard, heard.shape[1] - byzantine)


class Krum(Rule):
    """Take the received vector that is nearest to its h - f - 2 nearest other received vectors."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return krum(vectors, heard, heard.shape[1] - byzantine - 2)

    def most_byzantine(self, nodes: int) -> int:
        return max(0, nodes // 3 - 1)  # h = n - f must be at least 2 f + 3


class GeometricMedian(Rule):
    """Take three smoothed Weiszfeld iterations to the geometric median (RFA).

    nu is 0.1, as in the code of the authors.
    """

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return geometric_median(vectors, heard)


class SelfCenteredClipping(Rule):
    """Move from the vector of the node by clipped differences, in three iterations (SCC).

    Args:
        radius: length tau to which differences are clipped; the authors use 2 on MNIST and 5 on CIFAR-10.
    """

    centred = True

    def __init__(self, radius: float) -> None:
        positive(radius=radius)
        self.radius = radius

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return self_centred_clipping(own, vectors, heard, self.radius)
