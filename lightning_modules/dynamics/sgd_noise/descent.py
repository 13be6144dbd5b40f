"""SGD on the hinge loss, many iterations per call and without host synchronisation."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datamodules.distributed.collectives import rank, world_size
from datamodules.randomness.counter import sample_words
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.torch_internals import foreach_add_

MOST_AHEAD = 1024
"""Maximum number of batches evaluated together."""
MOST_DRAWN = 2**20
"""Maximum number of point indices sampled per training step, unless one batch per iteration needs more."""


class DescentPoints(NamedTuple):
    """The full training set, replicated on every rank."""

    features: Tensor
    """`[P, ...]`."""
    sign: Tensor
    """`[P]`, floating point: y, -1 or 1."""
    initial: Tensor
    """`[P]`: f(w_0, x)."""


class Course(NamedTuple):
    """Summary of the iterations of a training step, as tensors on the device."""

    passed: Tensor
    """Number of iterations, skipped ones included."""
    changed: Tensor
    """Number of iterations up to and including the last one that changed the weights; 0 if none did."""
    loss: Tensor
    """Loss of the last batch; not finite if an earlier one was not."""


def fitted(signed: Tensor, alpha: float) -> Tensor:
    """Return a mask of the fitted points: y F >= 1 / alpha or, with zero margin, y F > 0.

    Args:
        signed: y F, of any shape; NaN counts as not fitted.
        alpha: scale of the output; infinity means zero margin.
    """
    return (signed >= 1 / alpha) & (signed > 0)


def hinge(signed: Tensor, alpha: float) -> Tensor:
    """Compute max(0, 1 - alpha y F) / alpha = max(0, 1 / alpha - y F). The gradient at a fitted point is zero.

    Args:
        signed: y F, of any shape.
        alpha: scale of the output; infinity gives the perceptron loss.
    """
    return torch.where(fitted(signed, alpha), 0.0, 1 / alpha - signed)


def slope(signed: Tensor, sign: Tensor, alpha: float) -> Tensor:
    """Compute the derivative of the hinge loss with respect to F: -y if a point is not fitted, else 0."""
    return torch.where(fitted(signed, alpha), 0.0, -sign)


def drawn_batches(seed: int, iteration: Tensor, num_points: int, batch_size: int) -> Tensor:
    """Sample the batch of each iteration, a uniformly random subset of the points, by Floyd's algorithm.

    A batch depends only on (seed, iteration), not on the other batches sampled with it.

    Args:
        seed: random seed.
        iteration: iteration numbers, `[n]`, int64.
        num_points: P, number of points.
        batch_size: B, at most P.

    Returns:
        Indices of points, `[n, B]`, int64, distinct within a row.
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
    """Choose how many batches to evaluate together: a power of two near the expected gap between unfitted batches.

    Args:
        num_unfitted: number of points that are not fitted.
        num_points: P, number of points.
        batch_size: B, points per batch.
        iterations: iterations per training step.
    """
    expected = num_points // (batch_size * max(num_unfitted, 1))
    most = min(expected, MOST_AHEAD, MOST_DRAWN // (iterations * batch_size))
    return 2 ** max(most.bit_length() - 1, 0)


def descend(
    network: nn.Module, points: DescentPoints, batches: Tensor, iterations: int, ahead: int, rate: float, alpha: float
) -> Course:
    """Run SGD iterations w <- w - rate * grad (mean loss of the batch), in place.

    A batch whose points are all fitted does not change the weights. Therefore the next `ahead` batches are evaluated
    together, and the batches before the first unfitted batch are skipped. Evaluating batches together changes neither
    weights nor iteration counts. Each batch is sharded over ranks.

    Args:
        network: maps features to `[n, 1]`; identical on all ranks.
        points: training set.
        batches: indices of the next batches, `[iterations * ahead, B]`.
        iterations: number of SGD updates. Each update uses the first unfitted batch of a group; if all batches are
            fitted, it uses the last batch of the group.
        ahead: number of batches evaluated together.
        rate: learning rate.
        alpha: scale of the output.
    """
    parameters: list[Tensor] = [*trainable_parameters(network)]
    device, size = batches.device, batches.shape[1]
    place, changed = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    coming = torch.arange(ahead, device=device)
    signed = points.initial[:0]

    def chosen(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f, y and y F of points by index."""
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
    """All-reduce the sum of several tensors in one message."""
    message = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(message)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
