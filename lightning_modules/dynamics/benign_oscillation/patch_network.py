"""A network of filters over patches, and its gradient descent on one point at a time, for many networks at once.

f(x) = F_+ - F_-,    F_j(x) = (1/m) sum_r sum_p relu(<w_jr, x_p>)^2,
w_jr <- w_jr - eta (4 j / m) (f - y) sum_p relu(<w_jr, x_p>) x_p
"""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness.counter import sample_words


class PatchPoints(NamedTuple):
    """The training sets of S networks, n points each: patches y u, or 0 of weak points, y v, and noise."""

    signals: Tensor
    """u and v, `[2, d]`, orthogonal."""
    strong: Tensor
    """`[n, S]`, floating point: 1 where a point has the strong feature, else 0."""
    noise: Tensor
    """`[n, S, d]`, orthogonal to u and v."""
    target: Tensor
    """y, `[n, S]`, -1 or 1."""


def points_of(features: Tensor, target: Tensor, signals: Tensor) -> PatchPoints:
    """Take apart rows of a `datamodules.tables.feature_noise.FeatureNoise`: `[n, S, 3, d]` and `[n, S]`."""
    return PatchPoints(signals.to(features), features[:, :, 0].any(dim=2).to(target), features[:, :, 2], target)


def output(weight: Tensor, patches: Tensor) -> Tensor:
    """Compute f of each network at points.

    Args:
        weight: `[S, 2, m, d]`, of F_+ and F_-.
        patches: `[..., S, P, d]`, or `[..., 1, P, d]` of points that all networks share.

    Returns:
        `[..., S]`.
    """
    positive, negative = torch.einsum("sjrd,...spd->...sjrp", weight, patches).relu().square().sum(-1).unbind(-2)
    return (positive - negative).mean(dim=-1)


def component(weight: Tensor, signal: Tensor) -> Tensor:
    """Compute y f at the patch y v alone, for y = 1 and -1, `[2, S]`: the part of a feature v `[d]` in each class."""
    sign = 1 - 2 * torch.arange(2, dtype=weight.dtype, device=weight.device)[:, None]
    return sign * output(weight, (sign * signal)[:, None, None])


def drawn_order(seed: int, iteration: Tensor, steps: int, size: int, replicas: int) -> Tensor:
    """Draw the points of the coming iterations: in each pass of a network all of its points, in a new order.

    Args:
        seed: random seed.
        iteration: number of the first of these iterations, int64, from which alone the draw follows.
        steps: T.
        size: n, points of a network.
        replicas: S.

    Returns:
        `[T, S]`, int64.
    """
    coming = iteration + torch.arange(steps, device=iteration.device)
    passes = iteration // size + torch.arange(steps // size + 2, device=iteration.device)
    which = passes[:, None] * replicas + torch.arange(replicas, device=iteration.device)
    orders = sample_words(seed, 0, which.flatten(), size).argsort(dim=1).view(len(passes), replicas, size)
    return orders[coming // size - passes[0], :, coming % size]


@torch.no_grad()
def descend(weight: Tensor, points: PatchPoints, order: Tensor, rate: float) -> Tensor:
    """Take T steps of gradient descent on (f - y)^2, in place, each network on one point of its own set at a time.

    All patches are multiples of u, v and n noise vectors b_k. So what is iterated are the inner products <w, b_k>,
    which change by those of the b_k; the weights are w + sum_k c_k b_k in the end. A filter costs n + 2 numbers in
    place of d, and the networks are the last axis, so that many of them cost little more than one.

    Args:
        weight: `[S, 2, m, d]`.
        points: the training sets.
        order: `[T, S]`, int64: the point of each step.
        rate: eta.

    Returns:
        `[T, S]`: y f at the point of each step, before it.
    """
    S, filters = weight.shape[0], weight.shape[2]
    network = torch.arange(S, device=order.device)
    basis = torch.cat([points.signals[:, None].expand(-1, S, -1), points.noise])  # [n + 2, S, d]
    product = torch.einsum("ksd,sjrd->kjrs", basis, weight).flatten(1, 2).contiguous()  # [n + 2, 2m, S]
    group = weight.new_full((2 * filters, 1), 1 / filters)
    group[filters:] *= -1  # j / m
    y, strong = points.target[order, network], points.strong[order, network]
    signs = torch.stack([y * strong, y], dim=1)[:, :, None]  # of u and v in the patches, [T, 2, 1, S]
    squares = signs * points.signals.square().sum(dim=1).view(2, 1, 1)
    gram = torch.einsum("ksd,lsd->kls", points.noise, points.noise).contiguous()
    gram = gram.gather(0, order[:, None].expand(-1, len(gram), -1))[:, :, None]  # of the drawn with all, [T, n, 1, S]
    drawn = order[:, None, None].expand(-1, 1, 2 * filters, -1)
    total = torch.zeros_like(product)
    active = torch.zeros_like(product[:3])  # relu <w, x_p>; these are used again and again, as fresh memory is slow
    change, terms = torch.empty_like(active), torch.empty_like(active)
    (active_signals, active_noise), (change_signals, change_noise), (of_signals, of_noise), (to_signals, to_noise) = (
        (each[:2], each[2:]) for each in (active, change, product, total)
    )
    outputs = []
    parts = (each.unbind(0) for each in (y, signs, squares, gram, drawn))
    for label, sign, square, with_noise, place in zip(*parts, strict=True):
        torch.mul(of_signals, sign, out=active_signals)
        torch.gather(of_noise, 0, place, out=active_noise)
        torch.mul(active.relu_(), group, out=change)
        f = torch.mul(change, active, out=terms).sum(dim=(0, 1))
        change *= label - f
        of_signals.addcmul_(change_signals, square, value=4 * rate)
        of_noise.addcmul_(change_noise, with_noise, value=4 * rate)
        to_signals.addcmul_(change_signals, sign)
        to_noise.scatter_add_(0, place, change_noise)
        outputs.append(f)
    weight += 4 * rate * torch.einsum("kis,ksd->sid", total, basis).view_as(weight)
    return y * torch.stack(outputs)
