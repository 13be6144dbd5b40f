"""Observables of training: changes of the weights, the outputs and the tangent kernel since initialisation."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_modules.dynamics.sgd_noise.descent import Loss, fitted_mask, loss_slope, margin_loss

AT_ONCE = 16
"""Number of points whose gradients are computed at once."""
OUTPUTS_AT_ONCE = 1024
UNFITTED_SHARES = {"time_to_half": 0.5, "time_to_nine_tenths": 0.1}
"""Recorded times; each is the first time at which at most the given fraction of the points is unfitted."""


@torch.no_grad()
def outputs(network: nn.Module, features: Tensor) -> Tensor:
    """Compute, in chunks, the outputs f(w, x), `[n]`, for points `[n, ...]`."""
    return torch.cat([network(part).flatten() for part in features.split(OUTPUTS_AT_ONCE)])


def fit_statistics(signed: Tensor, alpha: float, loss: Loss = "hinge") -> dict[str, Tensor]:
    """Compute the loss, the error, the margin and the number of unfitted points.

    Args:
        signed: values of y F, `[n]`.
        alpha: scale of the output. Infinity means a loss without a margin.
        loss: name of the function phi in the loss.

    Returns:
        `loss`: alpha times the mean loss, which is initially phi(0) (1 for the hinge); if alpha is infinite, the mean
            of max(0, -y F).
        `error`: fraction of points for which y F <= 0 or y F is not finite.
        `margin`: minimum of alpha y F, or of y F if alpha is infinite.
        `unfitted`: number of points that are not fitted.
    """
    scale = alpha if alpha < float("inf") else 1.0
    return {
        "loss": scale * margin_loss(signed, alpha, loss).mean(),
        "error": (~((signed > 0) & signed.isfinite())).to(signed.dtype).mean(),
        "margin": scale * signed.min(),
        "unfitted": (~fitted_mask(signed, alpha)).sum().to(signed.dtype),
    }


def tangent_kernel(network: nn.Module, features: Tensor) -> Tensor:
    """Compute the tangent kernel K_ij = grad_w f(x_i) . grad_w f(x_j), `[n, n]`, for points `[n, ...]`."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def output(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(network, parameters, (one[None],)).squeeze()

    gradients = vmap(grad(output), in_dims=(None, 0), chunk_size=AT_ONCE)(parameters, features)
    flat = [each.flatten(start_dim=1) for each in gradients.values()]
    return torch.stack([each @ each.T for each in flat]).sum(dim=0)


def kernel_statistics(
    kernel: Tensor, initial: Tensor, signed: Tensor, sign: Tensor, alpha: float, loss: Loss = "hinge"
) -> dict[str, Tensor]:
    """Compute statistics of the tangent kernel and of the loss gradients for a set of points.

    Args:
        kernel: tangent kernel K, `[n, n]`.
        initial: tangent kernel K_0 at the initial weights, `[n, n]`.
        signed: values of y F of the points, `[n]`.
        sign: labels y of the points, `[n]`.
        alpha: scale of the output. Infinity means a loss without a margin.
        loss: name of the function phi in the loss.

    Returns:
        `kernel_change`: mean (K - K_0)^2 / mean K^2. `overlap`: y . K y / n^2. `gradient_norm`: squared norm of the
        mean loss gradient. `gradient_variance`: mean squared distance between the loss gradient of a point and the mean
        loss gradient.
    """
    slopes = loss_slope(signed, sign, alpha, loss)
    weighted = slopes[:, None] * kernel * slopes
    norm = weighted.mean()
    return {
        "kernel_change": ((kernel - initial) ** 2).mean() / (kernel**2).mean(),
        "overlap": (sign[:, None] * kernel * sign).mean(),
        "gradient_norm": norm,
        "gradient_variance": weighted.diagonal().mean() - norm,
    }


def squared_changes(network: nn.Module, initial: nn.Module) -> tuple[Tensor, Tensor]:
    """Compute the sums of (w - w_0)^2 and of w_0^2 over each parameter tensor, both `[number of parameter tensors]`."""
    pairs = list(zip(network.parameters(), initial.parameters(), strict=True))
    change = torch.stack([((now.detach() - before) ** 2).sum() for now, before in pairs])
    return change, torch.stack([(before**2).sum() for _, before in pairs])


def along_and_across(network: nn.Module, initial: nn.Module, direction: Tensor) -> tuple[float, float]:
    """Measure the change of the weight of a perceptron along the true direction and orthogonal to it.

    Args:
        network: perceptron with a single weight tensor of d entries.
        initial: the network at initialisation.
        direction: unit vector that determines the labels, `[d]`.

    Returns:
        The change along the direction, and the root mean square of the d - 1 orthogonal changes.
    """
    [(now, before)] = zip(network.parameters(), initial.parameters(), strict=True)
    change = (now.detach() - before).flatten()
    along = change @ direction
    across = ((change - along * direction) ** 2).sum() / (len(change) - 1)
    return float(along), float(across.sqrt())


def note_times(times: dict[str, float], time: float, unfitted: float) -> None:
    """Record the time in `times` if half or nine tenths of the training points are fitted for the first time.

    Args:
        times: times that have already been recorded, by name (see `UNFITTED_SHARES`).
        time: training time so far.
        unfitted: fraction of the training points that are not fitted.
    """
    for name, share in UNFITTED_SHARES.items():
        if unfitted <= share:
            times.setdefault(name, time)


def final_observables(row: Mapping[str, float], times: Mapping[str, float]) -> dict[str, float]:
    """Merge the last measurements of training with the times by which half and nine tenths of the points were fitted.

    Args:
        row: last measurements; if `unfitted` in this row is not zero, the returned `training_time` is infinite.
        times: recorded times (see `note_times`).

    Returns:
        The merged values and, if all points were fitted, `late_share` = 1 - `time_to_nine_tenths` / `training_time`,
        which is the fraction of the training time in which the last tenth of the points is fitted.
    """
    found = {**row, **times}
    if row["unfitted"]:
        return {**found, "training_time": math.inf}
    if row["training_time"] > 0:
        found["late_share"] = max(0.0, 1 - times["time_to_nine_tenths"] / row["training_time"])
    return found
