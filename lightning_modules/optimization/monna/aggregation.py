"""Byzantine-robust aggregation rules.

All sent vectors are rows of one table `[m, D]`. Row indices specify which vectors a node receives, so the vector that
all Byzantine nodes send is stored only once. A row with non-finite values is treated as infinitely far from all other
rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import positive
from lightning_modules.full_precision import at_least_float32

AT_ONCE = 2**24
"""Number of values that are sorted in one call."""


def vector_distances(own: Tensor, vectors: Tensor) -> Tensor:
    """Compute the distances `|own_i - vectors_j|`, `[k, m]`.

    The distances are computed from differences, not from inner products, because models are far from 0 and close to
    each other.
    """
    own, vectors = at_least_float32(own), at_least_float32(vectors)
    if own.is_cpu:  # takes half of the time of cdist
        distance = torch.stack([(vectors - each).norm(dim=1) for each in own])
    else:
        distance = torch.cdist(own, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.nan_to_num(torch.inf)


def zero_non_finite(vectors: Tensor) -> Tensor:
    """Replace rows that contain non-finite values by 0.

    The callers give these rows the weight 0.
    """
    return torch.where(vectors.isfinite().all(dim=1, keepdim=True), vectors, 0)


def weighted_sum(vectors: Tensor, heard: Tensor, weight: Tensor) -> Tensor:
    """Compute weighted sums, `[k, D]`, of the vectors in the rows `heard`, `[k, h]`.

    The weights have the shape `[k, h]`.
    """
    return F.embedding_bag(heard, vectors, per_sample_weights=weight.to(vectors.dtype), mode="sum")


def nearest(distance: Tensor, heard: Tensor, keep: int) -> Tensor:
    """Select the indices `[k, keep]` of each node's nearest vectors from the indices `heard`, `[k, h]`.

    In a tie, the earlier index is selected.

    Args:
        distance: distances between the vector of each node and all m sent vectors, `[k, m]`.
        heard: indices of the sent vectors that each node receives.
        keep: number of indices to select for each node.
    """
    order = distance.gather(1, heard).sort(dim=1, stable=True).indices
    return heard.gather(1, order[:, :keep])


def by_coordinates(vectors: Tensor, heard: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
    """Combine the received values of each coordinate into one value per node; the result is `[k, D]`.

    Args:
        vectors: all sent vectors, `[m, D]`.
        heard: indices of the rows that each node receives, `[k, h]`.
        combine: function that maps values `[k, h, D']`, sorted along h with NaN last, to `[k, D']`.
    """
    parts = vectors.split(max(1, AT_ONCE // heard.numel()), dim=1)
    return torch.cat([combine(part[heard].sort(dim=1).values) for part in parts], dim=1)


def trimmed_mean(vectors: Tensor, heard: Tensor, trim: int) -> Tensor:
    """Average each coordinate of the received vectors without its extreme values; the result is `[k, D]`.

    The `trim` lowest and the `trim` highest values of each coordinate are omitted.
    """
    last = heard.shape[1] - trim
    return by_coordinates(vectors, heard, lambda value: value[:, trim:last].mean(dim=1))


def middle(value: Tensor) -> Tensor:
    """Compute the median of sorted values `[k, h, D]` along the axis of length h; the result is `[k, D]`.

    For even h, the median is the mean of the two middle values.
    """
    h = value.shape[1]
    return value[:, (h - 1) // 2 : h // 2 + 1].mean(dim=1)


def mean_around_median(vectors: Tensor, heard: Tensor, keep: int) -> Tensor:
    """Average, for each coordinate, the `keep` values nearest to the coordinate's median; the result is `[k, D]`.

    The received vectors are the rows `heard`, `[k, h]`. In a tie, the lower value is kept.
    """

    def combine(value: Tensor) -> Tensor:
        order = (value - middle(value)[:, None]).abs().sort(dim=1, stable=True).indices
        return value.gather(1, order[:, :keep]).mean(dim=1)

    return by_coordinates(vectors, heard, combine)


def krum(vectors: Tensor, heard: Tensor, neighbours: int) -> Tensor:
    """Select, for each node, the received vector with the lowest score; the result is `[k, D]`.

    The score of a vector is the sum of its squared distances to its `neighbours` nearest neighbours among the other
    received vectors. In a tie, the earlier vector is selected.
    """
    squared = vector_distances(vectors, vectors).square()[heard[:, :, None], heard[:, None, :]]
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # a vector is not its own neighbour
    score = squared.sort(dim=2).values[:, :, :neighbours].sum(dim=2)
    return vectors[heard.gather(1, score.argmin(dim=1, keepdim=True))[:, 0]]


def geometric_median(vectors: Tensor, heard: Tensor, iterations: int = 3, smoothing: float = 0.1) -> Tensor:
    """Approximate the geometric median of the received vectors, `[k, D]`, by smoothed Weiszfeld iterations.

    Starting from z = 0, each iteration computes z <- sum_j b_j x_j / sum_j b_j, where b_j = 1 / max(|x_j - z|, nu).
    """
    centre, summed = vectors.new_zeros(len(heard), vectors.shape[1]), zero_non_finite(vectors)
    for _ in range(iterations):
        weight = 1 / vector_distances(centre, vectors).gather(1, heard).clamp(min=smoothing)
        centre = weighted_sum(summed, heard, weight / weight.sum(dim=1, keepdim=True))
    return centre


def self_centred_clipping(own: Tensor, vectors: Tensor, heard: Tensor, radius: float, iterations: int = 3) -> Tensor:
    """Move each node's vector by the mean of clipped differences to the received vectors; the result is `[k, D]`.

    Each iteration computes v <- v + (1/h) sum_j (x_j - v) min(1, tau / |x_j - v|).
    """
    centre, summed = own, zero_non_finite(vectors)
    for _ in range(iterations):
        scale = (radius / vector_distances(centre, vectors).gather(1, heard)).clamp(max=1) / heard.shape[1]
        centre = centre + weighted_sum(summed, heard, scale) - centre * scale.sum(dim=1, keepdim=True).to(centre.dtype)
    return centre


class Rule(ABC):
    """Base class of rules that aggregate the vectors that a node receives into one vector."""

    centred = False
    """Whether the result depends on which of the received vectors is the node's own vector."""

    @abstractmethod
    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        """Compute the new vector of each node, `[k, D]`.

        Args:
            own: vectors of k nodes, `[k, D]`.
            vectors: all sent vectors, `[m, D]`.
            heard: indices of the h rows of `vectors` that each node receives, `[k, h]`.
            byzantine: number f of received vectors that may be Byzantine.
        """

    def most_byzantine(self, nodes: int) -> int:
        """Return the maximum number f of Byzantine nodes among n nodes.

        By default, f < n / 3 is required, because a node receives n - f vectors, and fewer than half of them may be
        Byzantine.
        """
        return (nodes - 1) // 3

    def answer(self, honest: Tensor, byzantine: int) -> Callable[[Tensor], Tensor]:
        """Return a function that maps the Byzantine vector to the mean output of the rule.

        The mean is taken over the honest nodes, each of which is assumed to receive the vectors of all nodes.

        Args:
            honest: vectors sent by the honest nodes, `[H, D]`.
            byzantine: number f of Byzantine nodes.
        """
        own = honest if self.centred else honest[:1]
        heard = all_heard(len(honest), byzantine, honest.device).expand(len(own), -1)
        return lambda sent: self(own, torch.cat([honest, sent[None]]), heard, byzantine).mean(dim=0)

    def harm_along(self, honest: Tensor, byzantine: int, direction: Tensor) -> Callable[[Any], Any]:
        """Return the function eta -> |answer(mean + eta direction) - mean|^2.

        Here `answer` is the function that the method `answer` returns, and `mean` is the mean of the honest vectors.

        Args:
            honest: vectors sent by the honest nodes, `[H, D]`.
            byzantine: number f of Byzantine nodes.
            direction: direction in which the Byzantine vector is moved, `[D]`.

        Returns:
            The function. It maps a scalar eta, a tensor or, on the CPU, a Python number, to a scalar.
        """
        mean, answer = honest.mean(dim=0), self.answer(honest, byzantine)
        return lambda eta: (answer(mean + eta * direction) - mean).square().sum()


def all_heard(honest: int, byzantine: int, device: torch.device) -> Tensor:
    """Return the indices of all H honest rows and f copies of the index of the Byzantine row, `[1, H + f]`."""
    return torch.arange(honest + byzantine, device=device).clamp(max=honest)[None]


class NearestNeighborAveraging(Rule):
    """The rule of MoNNA: the mean of the h - f received vectors that are nearest to the node's own vector."""

    centred = True

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        chosen = nearest(vector_distances(own, vectors), heard, heard.shape[1] - byzantine)
        return F.embedding_bag(chosen, vectors, mode="mean")  # reads only the selected rows

    def harm_along(self, honest: Tensor, byzantine: int, direction: Tensor) -> Callable[[Any], Any]:
        """Return the same function as the base class, but compute all inner products only once.

        For a direction u, the function uses |x_i - mean - eta u|^2 = |x_i - mean|^2 - 2 eta <x_i - mean, u> + eta^2
        |u|^2. In a node's average, the Byzantine vector replaces up to f honest vectors that are farther away. On the
        CPU, the function computes with NumPy, whose calls take less time for such small matrices. Rounding decides
        between vectors at equal distances.
        """
        number = len(honest)
        rows = at_least_float32(torch.cat([honest - honest.mean(dim=0), direction[None]]))
        products: Any = (rows @ rows.T).double()
        own = products.diagonal()[:-1]
        between: Any = (own[:, None] + own - 2 * products[:-1, :-1]).abs()
        # Number the vectors from each node's farthest, 1, to the node's own, H.
        place: Any = number - between.argsort(dim=1, stable=True).argsort(dim=1).double()
        if honest.is_cpu:
            products, between, place = products.numpy(), between.numpy(), place.numpy()
        own, along, length = products.diagonal()[:-1], products[:-1, -1], products[-1, -1]

        def harm(eta: Any) -> Any:
            with np.errstate(invalid="ignore"):  # vectors that are not finite; tensors do not warn of them either
                sent = abs(own - 2 * eta * along + eta**2 * length)
                copies = (between > sent[:, None]).sum(1).clip(0, byzantine)
                weight, factor = (place - copies[:, None]).clip(0, 1).sum(0), eta * copies.sum()
                total = weight @ products[:-1, :-1] @ weight + 2 * factor * (weight @ along) + factor**2 * length
                return total / number**4

        return harm


class Average(Rule):
    """The rule of D-SGD, which averages all received vectors; it does not tolerate any Byzantine node."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return F.embedding_bag(heard, vectors, mode="mean")

    def most_byzantine(self, nodes: int) -> int:
        return (nodes - 1) // 2  # n - 2 f >= 1, so that a node still receives its own vector


class TrimmedMean(Rule):
    """The mean of each coordinate without its f lowest and f highest values (BRIDGE; with momentum, MoCWTM)."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return trimmed_mean(vectors, heard, byzantine)


class CoordinatewiseMedian(Rule):
    """The median of each coordinate of the received vectors."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return by_coordinates(vectors, heard, middle)


class MeanAroundMedian(Rule):
    """The mean, for each coordinate, of the h - f values that are nearest to the median (MeaMed)."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return mean_around_median(vectors, heard, heard.shape[1] - byzantine)


class Krum(Rule):
    """The received vector whose sum of squared distances to its h - f - 2 nearest neighbours is smallest."""

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return krum(vectors, heard, heard.shape[1] - byzantine - 2)

    def most_byzantine(self, nodes: int) -> int:
        return max(0, nodes // 3 - 1)  # h = n - f must be at least 2 f + 3


class GeometricMedian(Rule):
    """The approximate geometric median, computed by three smoothed Weiszfeld iterations (RFA).

    The smoothing parameter nu is 0.1, as in the authors' code.
    """

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return geometric_median(vectors, heard)


class SelfCenteredClipping(Rule):
    """The node's own vector, moved three times by the mean of clipped differences to the received vectors (SCC).

    Args:
        radius: maximum length tau of the clipped differences; the authors use 2 on MNIST and 5 on CIFAR-10.
    """

    centred = True

    def __init__(self, radius: float) -> None:
        positive(radius=radius)
        self.radius = radius

    def __call__(self, own: Tensor, vectors: Tensor, heard: Tensor, byzantine: int) -> Tensor:
        return self_centred_clipping(own, vectors, heard, self.radius)
