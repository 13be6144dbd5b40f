"""Stochastic gradient descent on margins, many iterations at a time and none of them with a wait for the device."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datamodules.distributed.collectives import rank, world_size
from datamodules.randomness.counter import sample_words
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.torch_internals import foreach_add_

MOST_AHEAD = 1024
"""Batches that are looked at together, at most."""
MOST_DRAWN = 2**20
"""Numbers of points that are drawn for a training step, at most, if that is enough for one look an iteration."""


class DescentPoints(NamedTuple):
    """The training set, whole on every process."""

    features: Tensor
    """`[P, ...]`."""
    sign: Tensor
    """`[P]`, floating point: y, -1 or 1."""
    initial: Tensor
    """`[P]`: f(w_0, x)."""


class Course(NamedTuple):
    """The iterations of a training step, in numbers on the device."""

    passed: Tensor
    """Number of iterations."""
    changed: Tensor
    """Number of those up to and with the last one that changed the weights; 0 if none did."""
    loss: Tensor
    """The last batch's; not finite where one before was not."""


def fitted(signed: Tensor, alpha: float) -> Tensor:
    """Tell which points have the margin 1 / alpha: y F >= 1 / alpha, and y F > 0 where the margin is zero.

    Args:
        signed: y F, of any shape; NaN is not fitted.
        alpha: scale of the output; infinity is a margin of zero.
    """
    return (signed >= 1 / alpha) & (signed > 0)


def hinge(signed: Tensor, alpha: float) -> Tensor:
    """Compute max(0, 1 - alpha y F) / alpha = max(0, 1 / alpha - y F), whose gradient at a fitted point is zero.

    Args:
        signed: y F, of any shape.
        alpha: scale of the output; infinity is the perceptron's loss.
    """
    return torch.where(fitted(signed, alpha), 0.0, 1 / alpha - signed)


def slope(signed: Tensor, sign: Tensor, alpha: float) -> Tensor:
    """Differentiate the hinge with respect to F: -y where a point is not fitted, else 0."""
    return torch.where(fitted(signed, alpha), 0.0, -sign)


def drawn_batches(seed: int, iteration: Tensor, num_points: int, batch_size: int) -> Tensor:
    """Draw the batch of each iteration: a uniformly random subset of the points, by Floyd's algorithm.

    A batch follows from (seed, iteration) alone, whatever is drawn with it.

    Args:
        seed: random seed.
        iteration: numbers of the iterations, `[n]`, int64.
        num_points: P.
        batch_size: B, at most P.

    Returns:
        Positions of points, `[n, B]`, int64, no two alike in a row.
    """
    word = (sample_words(seed, 0, iteration, batch_size) >> 1) & torch.iinfo(torch.int64).max
    chosen: list[Tensor] = []
    for place in range(batch_size):
        last = num_points - batch_size + place
        pick = word[:, place] % (last + 1)
        if chosen:
            pick = torch.where((torch.stack(chosen, dim=1) == pick[:, None]).any(dim=1), last, pick)
        chosen.append(pick)
    return torch.stack(chosen, dim=1)


def ahead_of(num_unfitted: int, num_points: int, batch_size: int, iterations: int) -> int:
    """Say how many batches to look at together: a power of two near the number between two that are not fitted.

    Args:
        num_unfitted: points that are not fitted.
        num_points: P.
        batch_size: B.
        iterations: of a training step.
    """
    expected = num_points // (batch_size * max(num_unfitted, 1))
    most = min(expected, MOST_AHEAD, MOST_DRAWN // (iterations * batch_size))
    return 2 ** max(most.bit_length() - 1, 0)


def descend(
    network: nn.Module, points: DescentPoints, batches: Tensor, iterations: int, ahead: int, rate: float, alpha: float
) -> Course:
    """Take iterations w <- w - rate * grad (mean loss of the batch), in place.

    A batch whose points are all fitted changes nothing. So the coming batches are looked at `ahead` at a time, and the
    iterations up to the first one that is not fitted are passed over together: the weights, and the number of the
    iteration that they are at, are those of one iteration at a time. Each process has a part of each batch.

    Args:
        network: maps features to `[n, 1]`; the same on all processes.
        points: the training set.
        batches: `[iterations * ahead, B]`, the coming batches.
        iterations: batches that are not passed over, or the last of those looked at together.
        ahead: batches that are looked at together.
        rate: learning rate.
        alpha: scale of the output.
    """
    parameters: list[Tensor] = [*trainable_parameters(network)]
    device, size = batches.device, batches.shape[1]
    place, changed = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    coming = torch.arange(ahead, device=device)
    signed = points.initial[:0]

    def chosen(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f, y and y F of some points."""
        features, sign, initial = (each.index_select(0, position) for each in points)
        output = network(features).flatten()
        return output, sign, sign * (output.detach() - initial)

    for _ in range(iterations):
        if ahead > 1:
            with torch.no_grad():
                seen = batches.index_select(0, place + coming)
                changes = ~fitted(chosen(seen.flatten())[2], alpha).view_as(seen).all(dim=1)
            place = place + torch.where(changes.any(), changes.int().argmax(), ahead - 1)
        batch = batches.index_select(0, place)[0]
        with torch.enable_grad():
            output, sign, signed = chosen(batch[rank() :: world_size()])
        slopes = slope(signed, sign, alpha)
        sums = [*torch.autograd.grad(output, parameters, slopes / size), slopes.abs().sum()]
        *gradients, left = sums if world_size() == 1 else _summed(sums)
        with torch.no_grad():
            foreach_add_(parameters, gradients, alpha=-rate)
        place = place + 1
        changed = torch.where(left > 0, place, changed)
    return Course(place[0], changed[0], world_size() * hinge(signed, alpha).sum() / size)


def _summed(tensors: list[Tensor]) -> list[Tensor]:
    """Sum tensors over processes, in one message."""
    message = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(message)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
