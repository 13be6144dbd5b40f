"""Baseline confidence scores from the logits of a classifier.

    softmax:  max_c softmax(z)_c
    energy:   log sum_c exp z_c
    ODIN:     max_c softmax(z(x') / T)_c,   x' = x - epsilon sign(grad_x CE(z(x) / T, argmax z(x)))

As in the published code for ODIN and for the Mahalanobis detector, sign(0) is +1, and x' is not clipped.

Sources: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
Networks, ICLR 2017, arXiv 1610.02136; Liu, Wang, Owens and Li, Energy-based Out-of-distribution Detection, NeurIPS
2020, arXiv 2010.03759, at temperature 1; Liang, Li and Srikant, Enhancing the Reliability of Out-of-distribution Image
Detection in Neural Networks, ICLR 2018, arXiv 1706.02690.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURES = (1.0, 10.0, 100.0, 1000.0)
EPSILONS = (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.0024, 0.005, 0.01, 0.05, 0.1, 0.2)
"""Values of epsilon, in pixel units, in the grid for ODIN in the published code of the Mahalanobis detector."""


def softmax_confidence(logits: Tensor) -> Tensor:
    """Compute max_c softmax(z)_c, `[B]`, in float64."""
    return logits.double().softmax(dim=1).amax(dim=1)


def energy_confidence(logits: Tensor) -> Tensor:
    """Compute the negative energy log sum_c exp z_c, `[B]`, in float64."""
    return logits.double().logsumexp(dim=1)


def direction(gradient: Tensor) -> Tensor:
    """Compute sign(g), with sign(0) = +1."""
    return torch.where(gradient >= 0, 1.0, -1.0).to(gradient.dtype)


def odin_confidence(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    epsilons: Sequence[float] = EPSILONS,
) -> Tensor:
    """Compute the confidence of ODIN for each temperature and perturbation size.

    Args:
        network: network that maps images in [0, 1] to logits `[B, K]`. Gradients must be enabled.
        image: `[B, C, H, W]`.
        temperatures: values of the temperature T.
        epsilons: perturbation sizes, in pixel units.

    Returns:
        Confidence `[B, temperatures, epsilons]`, in float64. The gradients of the parameters are not computed.
    """
    image = image.detach().requires_grad_()
    logits = network(image)
    columns = []
    for number, T in enumerate(temperatures):
        loss = F.cross_entropy(logits.double() / T, logits.argmax(dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, image, retain_graph=number + 1 < len(temperatures))
        towards = direction(gradient)
        with torch.no_grad():
            for epsilon in epsilons:
                moved = logits if epsilon == 0 else network(image - epsilon * towards)
                columns.append(softmax_confidence(moved / T))
    return torch.stack(columns, dim=1).detach().unflatten(1, (len(temperatures), len(epsilons)))
