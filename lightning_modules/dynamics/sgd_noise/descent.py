"""SGD on a hinge loss, and an SDE that imitates SGD; one call runs many iterations without host synchronisation."""

from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datamodules.distributed.collectives import rank, world_size
from datamodules.randomness.counter import CounterRNG, sample_words
from lightning_modules.optim.optimizers import trainable_parameters
from lightning_modules.torch_internals import foreach_add_

Loss = Literal["hinge", "quadratic_hinge", "soft_hinge"]
"""Name of the function phi in the loss phi(alpha y F) / alpha; phi is zero at fitted points."""
Dynamics = Literal["sgd", "sde"]
MOST_AHEAD = 1024
"""Maximum number of batches that are evaluated together."""
MOST_DRAWN = 2**20
"""Maximum number of point indices sampled per training step, unless one batch per iteration already needs more."""


class DescentPoints(NamedTuple):
    """The full training set, replicated on every rank."""

    features: Tensor
    """Features of the points, `[P, ...]`."""
    sign: Tensor
    """Labels y in {-1, 1}, `[P]`, floating point."""
    initial: Tensor
    """Initial outputs f(w_0, x), `[P]`."""


class Course(NamedTuple):
    """Summary of the iterations of a training step, as tensors on the device."""

    passed: Tensor
    """Number of iterations, including skipped iterations."""
    changed: Tensor
    """Number of iterations up to and including the last one that changed the weights; 0 if none changed them."""
    loss: Tensor
    """Loss of the last batch; not finite if the loss of an earlier batch was not finite."""


def fitted_mask(signed: Tensor, alpha: float) -> Tensor:
    """Return a mask of the fitted points, for which y F >= 1 / alpha or, with zero margin, y F > 0.

    Args:
        signed: values of y F, of any shape; NaN counts as not fitted.
        alpha: scale of the output; infinity means zero margin.
    """
    return (signed >= 1 / alpha) & (signed > 0)


def hinge(signed: Tensor, alpha: float) -> Tensor:
    """Compute max(0, 1 - alpha y F) / alpha = max(0, 1 / alpha - y F), whose gradient at fitted points is zero.

    Args:
        signed: values of y F, of any shape.
        alpha: scale of the output; infinity gives the perceptron loss.
    """
    return torch.where(fitted_mask(signed, alpha), 0.0, 1 / alpha - signed)


def margin_loss(signed: Tensor, alpha: float, loss: Loss) -> Tensor:
    """Compute the loss phi(alpha y F) / alpha.

    With r = 1 - alpha y F, phi at points that are not fitted is

        r for the hinge,    r^2 for the quadratic hinge,    r exp(-1 / (2r)) for the soft hinge.

    Args:
        signed: values of y F, of any shape.
        alpha: scale of the output; infinity is only supported for the hinge.
        loss: name of the function phi in the loss.
    """
    if loss == "hinge":
        return hinge(signed, alpha)
    done = fitted_mask(signed, alpha)
    r = _distance(signed, done, alpha)
    return torch.where(done, 0.0, (r**2 if loss == "quadratic_hinge" else r * (-0.5 / r).exp()) / alpha)


def loss_slope(signed: Tensor, sign: Tensor, alpha: float, loss: Loss = "hinge") -> Tensor:
    """Compute the derivative of the loss with respect to F; for the hinge, the derivative is -y at unfitted points."""
    done = fitted_mask(signed, alpha)
    if loss == "hinge":
        return torch.where(done, 0.0, -sign)
    r = _distance(signed, done, alpha)
    return torch.where(done, 0.0, -sign * (2 * r if loss == "quadratic_hinge" else (1 + 0.5 / r) * (-0.5 / r).exp()))


def _distance(signed: Tensor, done: Tensor, alpha: float) -> Tensor:
    """Compute r = 1 - alpha y F; at fitted points, r is set to 1, and elsewhere, r is at least 1e-30."""
    return torch.where(done, 1.0, (1 - alpha * signed).clamp(min=1e-30))


def drawn_batches(seed: int, iteration: Tensor, num_points: int, batch_size: int) -> Tensor:
    """Sample the batch of each iteration by Floyd's algorithm; a batch is a uniformly distributed subset of the points.

    Each batch depends only on (seed, iteration), and not on the other batches that are sampled in the same call.

    Args:
        seed: random seed.
        iteration: indices of the iterations, `[n]`, int64.
        num_points: number P of points.
        batch_size: batch size B, at most P.

    Returns:
        The indices of the points, `[n, B]`, int64; the indices in a row are distinct.
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
        num_points: number P of points.
        batch_size: batch size B.
        iterations: number of iterations per training step.
    """
    expected = num_points // (batch_size * max(num_unfitted, 1))
    most = min(expected, MOST_AHEAD, MOST_DRAWN // (iterations * batch_size))
    return 2 ** max(most.bit_length() - 1, 0)


def descend(
    network: nn.Module,
    points: DescentPoints,
    batches: Tensor,
    iterations: int,
    ahead: int,
    rate: float,
    alpha: float,
    loss: Loss = "hinge",
) -> Course:
    """Run SGD iterations w <- w - rate * grad (mean loss of the batch) in place.

    A batch is called unfitted if at least one of its points is not fitted. Only unfitted batches change the weights.
    Therefore the next `ahead` batches are evaluated together, and all batches before the first unfitted batch are
    skipped. Evaluating batches together changes neither the weights nor the number of iterations. Each batch is sharded
    over ranks.

    Args:
        network: network that maps features to outputs `[n, 1]`; its weights must be equal on all ranks.
        points: training set.
        batches: point indices of the next batches, `[iterations * ahead, B]`.
        iterations: number of SGD updates. Each update uses the first unfitted batch of a group of batches or, if all
            batches of the group are fitted, the last batch.
        ahead: number of batches in a group, which are evaluated together.
        rate: learning rate.
        alpha: scale of the output.
        loss: name of the function phi in the loss.
    """
    parameters: list[Tensor] = [*trainable_parameters(network)]
    device, size = batches.device, batches.shape[1]
    place, changed = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
    coming = torch.arange(ahead, device=device)
    signed = points.initial[:0]

    def chosen(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute f, y and y F for the points with the given indices."""
        features, sign, initial = (each.index_select(0, position) for each in points)
        output = network(features).flatten()
        return output, sign, sign * (output.detach() - initial)

    for _ in range(iterations):
        if ahead > 1:
            with torch.no_grad():
                seen = batches.index_select(0, place + coming)
                changes = ~fitted_mask(chosen(seen.flatten())[2], alpha).view_as(seen).all(dim=1)
            place = place + torch.where(changes.any(), changes.int().argmax(), ahead - 1)
        batch = batches.index_select(0, place)[0]
        with torch.enable_grad():
            output, sign, signed = chosen(batch[rank() :: world_size()])
        slopes = loss_slope(signed, sign, alpha, loss)
        sums = [*torch.autograd.grad(output, parameters, slopes / size), slopes.abs().sum()]
        *gradients, left = sums if world_size() == 1 else _sum(sums)
        with torch.no_grad():
            foreach_add_(parameters, gradients, alpha=-rate)
        place = place + 1
        changed = torch.where(left > 0, place, changed)
    return Course(place[0], changed[0], world_size() * margin_loss(signed, alpha, loss).sum() / size)


def diffuse(
    network: nn.Module,
    points: DescentPoints,
    noise: Tensor,
    batch_size: int,
    rate: float,
    alpha: float,
    loss: Loss = "hinge",
) -> Course:
    """Run iterations of the SDE in place; each iteration is a full-batch descent step plus Gaussian noise.

        w <- w - rate * grad L + rate * s * grad_w mean_mu f(w, x_mu) xi_mu,    s^2 = (1/B - 1/P) sum_mu l'_mu^2

    xi is N(0, I_P), and l'_mu is the derivative of the loss of point mu with respect to F. The noise has the same
    strength as the noise of batches of B points, and lies in the span of the gradients of f. The points are sharded
    over ranks.

    Args:
        network: network that maps features to outputs `[n, 1]`; its weights must be equal on all ranks.
        points: training set.
        noise: noise xi of each iteration, `[iterations, P]`.
        batch_size: batch size B.
        rate: learning rate.
        alpha: scale of the output.
        loss: name of the function phi in the loss.
    """
    parameters: list[Tensor] = [*trainable_parameters(network)]
    size = len(points.sign)
    features, sign, initial = (each[rank() :: world_size()] for each in points)
    changed, mean = torch.zeros((), dtype=torch.int64, device=noise.device), noise.sum()
    for step, xi in enumerate(noise):
        with torch.enable_grad():
            output = network(features).flatten()
        signed = sign * (output.detach() - initial)
        slopes = loss_slope(signed, sign, alpha, loss)
        sums = [(slopes**2).sum(), margin_loss(signed, alpha, loss).sum()]
        square, total = sums if world_size() == 1 else _sum(sums)
        strength = (square * (1 / batch_size - 1 / size)).sqrt()
        gradients = list(
            torch.autograd.grad(output, parameters, (slopes - strength * xi[rank() :: world_size()]) / size)
        )
        with torch.no_grad():
            foreach_add_(parameters, gradients if world_size() == 1 else _sum(gradients), alpha=-rate)
        changed, mean = torch.where(square > 0, step + 1, changed), total / size
    return Course(torch.full_like(changed, len(noise)), changed, mean)


def drawn_noise(seed: int, iteration: Tensor, points: DescentPoints) -> Tensor:
    """Sample the noise xi for n iterations, `[n, P]`; the noise of an iteration depends only on (seed, iteration)."""
    return CounterRNG(seed, 0, iteration).normal(points.sign.expand(len(iteration), -1))


def run_iterations(
    network: nn.Module,
    points: DescentPoints,
    dynamics: Dynamics,
    seed: int,
    first: Tensor,
    iterations: int,
    unfitted: int | None,
    batch_size: int,
    rate: float,
    alpha: float,
    loss: Loss,
) -> Course:
    """Run iterations in place by `descend` or `diffuse`; the batches or the noise are determined by (seed, iteration).

    Args:
        network: network that maps features to outputs `[n, 1]`; its weights must be equal on all ranks.
        points: training set.
        dynamics: `sgd` or `sde`.
        seed: random seed.
        first: index of the first iteration.
        iterations: number of updates.
        unfitted: number of unfitted points at the last measurement; None if unknown.
        batch_size: batch size B.
        rate: learning rate.
        alpha: scale of the output.
        loss: name of the function phi in the loss.
    """
    if dynamics == "sde":
        noise = drawn_noise(seed, first + torch.arange(iterations, device=first.device), points)
        return diffuse(network, points, noise, batch_size, rate, alpha, loss)
    size = len(points.sign)
    ahead = ahead_of(size if unfitted is None else unfitted, size, batch_size, iterations)
    coming = first + torch.arange(iterations * ahead, device=first.device)
    batches = drawn_batches(seed, coming, size, batch_size)
    return descend(network, points, batches, iterations, ahead, rate, alpha, loss)


def _sum(tensors: list[Tensor]) -> list[Tensor]:
    """Sum each of several tensors over all ranks by a single all-reduce."""
    message = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(message)
    parts = message.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
