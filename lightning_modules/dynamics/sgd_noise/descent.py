"""Stochastic gradient descent on margins, many iterations at a time and none of them with a wait for the device."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datamodules.loading.augmentation import sample_words
from datamodules.loading.world import rank, world_size
from lightning_modules.training.optimizers import trainable

MOST_AHEAD = 1024
"""Batches that are looked at together, at most."""


class Points(NamedTuple):
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
    """Mean loss of the batches that were not passed over."""


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


def ahead_of(num_unfitted: int, num_points: int, batch_size: int) -> int:
    """Say how many batches to look at together: a power of two near the number between two that are not fitted.

    Args:
        num_unfitted: points that are not fitted.
        num_points: P.
        batch_size: B.
    """
    expected = num_points // (batch_size * max(num_unfitted, 1))
    return min(2 ** max(expected.bit_length() - 1, 0), MOST_AHEAD)


def signed_outputs(network: nn.Module, points: Points, position: Tensor) -> Tensor:
    """Compute y F(x) = y (f(w, x) - f(w_0, x)) of some points, `[n]`."""
    features, sign, initial = (each.index_select(0, position) for each in points)
    return sign * (network(features).flatten() - initial)


def descend(
    network: nn.Module, points: Points, batches: Tensor, iterations: int, ahead: int, rate: float, alpha: float
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
    parameters = trainable(network)
    device = batches.device
    place, changed = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    coming = torch.arange(ahead, device=device)
    total = points.initial.new_zeros(())
    for _ in range(iterations):
        if ahead > 1:
            with torch.no_grad():
                seen = batches.index_select(0, place + coming)
                signed = signed_outputs(network, points, seen.flatten()).view_as(seen)
                stirs = ~fitted(signed, alpha).all(dim=1)
                place = place + torch.where(stirs.any(), stirs.int().argmax(), ahead - 1)
        batch = batches.index_select(0, place)[0]
        with torch.enable_grad():
            signed = signed_outputs(network, points, batch[rank() :: world_size()])
            loss = hinge(signed, alpha).sum() / len(batch)
        gradients = torch.autograd.grad(loss, parameters)
        numbers = [loss.detach(), (~fitted(signed.detach(), alpha)).sum().to(loss.dtype)]
        if world_size() > 1:
            *gradients, loss_sum, unfitted = _summed([*gradients, *numbers])
            numbers = [loss_sum, unfitted]
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-rate)
        place = place + 1
        changed = torch.where(numbers[1] > 0, place, changed)
        total += numbers[0]
    return Course(place[0], changed[0], total / iterations)


def _summed(tensors: list[Tensor]) -> list[Tensor]:
    """Sum tensors over processes, in one message."""
    message = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(message)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
