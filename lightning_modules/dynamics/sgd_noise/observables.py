"""Observables of a network in training: how far weights, outputs and the tangent kernel are from where they began."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lightning_modules.dynamics.sgd_noise.descent import fitted, hinge, slope

AT_ONCE = 16
"""Points whose gradients are computed together."""
OUTPUTS_AT_ONCE = 1024


@torch.no_grad()
def outputs(network: nn.Module, features: Tensor) -> Tensor:
    """Compute f(w, x) of points `[n, ...]`, some at a time, `[n]`."""
    return torch.cat([network(part).flatten() for part in features.split(OUTPUTS_AT_ONCE)])


def fit_statistics(signed: Tensor, alpha: float) -> dict[str, Tensor]:
    """Measure how well points are fitted.

    Args:
        signed: y F, `[n]`.
        alpha: scale of the output.

    Returns:
        `loss`: alpha times the mean loss, 1 at the start, or with a margin of zero the mean of max(0, -y F);
        `error`: fraction of y F <= 0, with NaN and infinity; `margin`: the least alpha y F, or y F; `unfitted`: number
        of points.
    """
    scale = alpha if alpha < float("inf") else 1.0
    return {
        "loss": scale * hinge(signed, alpha).mean(),
        "error": (~((signed > 0) & signed.isfinite())).to(signed.dtype).mean(),
        "margin": scale * signed.min(),
        "unfitted": (~fitted(signed, alpha)).sum().to(signed.dtype),
    }


def tangent_kernel(network: nn.Module, features: Tensor) -> Tensor:
    """Compute the Gram matrix K_ij = grad_w f(x_i) . grad_w f(x_j) of points `[n, ...]`, `[n, n]`."""
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def output(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(network, parameters, (one[None],)).squeeze()

    gradients = vmap(grad(output), in_dims=(None, 0), chunk_size=AT_ONCE)(parameters, features)
    flat = [each.flatten(start_dim=1) for each in gradients.values()]
    return torch.stack([each @ each.T for each in flat]).sum(dim=0)


def kernel_statistics(kernel: Tensor, initial: Tensor, signed: Tensor, sign: Tensor, alpha: float) -> dict[str, Tensor]:
    """Measure the tangent kernel on some points, and the gradients that it is made of.

    Args:
        kernel: K, `[n, n]`.
        initial: K at the initial weights.
        signed: y F of the points, `[n]`.
        sign: y of the points.
        alpha: scale of the output.

    Returns:
        `kernel_change`: mean (K - K_0)^2 / mean K^2; `overlap`: y . K y / n^2; `gradient_norm`: squared norm of the
        loss's gradient, a mean over points; `gradient_variance`: mean squared distance of a point's from that.
    """
    slopes = slope(signed, sign, alpha)
    weighted = slopes[:, None] * kernel * slopes
    norm = weighted.mean()
    return {
        "kernel_change": ((kernel - initial) ** 2).mean() / (kernel**2).mean(),
        "overlap": (sign[:, None] * kernel * sign).mean(),
        "gradient_norm": norm,
        "gradient_variance": weighted.diagonal().mean() - norm,
    }


def squared_changes(network: nn.Module, initial: nn.Module) -> tuple[Tensor, Tensor]:
    """Sum (w - w_0)^2 and w_0^2 over each tensor of weights, both `[number of tensors]`."""
    pairs = list(zip(network.parameters(), initial.parameters(), strict=True))
    change = torch.stack([((now.detach() - before) ** 2).sum() for now, before in pairs])
    return change, torch.stack([(before**2).sum() for _, before in pairs])


def along_and_across(network: nn.Module, initial: nn.Module, direction: Tensor) -> tuple[float, float]:
    """Measure how far a perceptron has gone along the direction that gave the labels, and across it.

    Args:
        network: with one tensor of d weights.
        initial: the network as it was.
        direction: unit vector, `[d]`.

    Returns:
        The change of the weight along the direction, and the root mean square of the d - 1 changes across it.
    """
    [(now, before)] = zip(network.parameters(), initial.parameters(), strict=True)
    change = (now.detach() - before).flatten()
    along = change @ direction
    across = ((change - along * direction) ** 2).sum() / (len(change) - 1)
    return float(along), float(across.sqrt())
