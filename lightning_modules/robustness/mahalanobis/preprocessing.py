"""Confidence M_l of each layer for images that are first perturbed (input pre-processing).

The perturbation moves an image towards the class with the nearest mean:

    x' = x - epsilon sign(grad_x d_{c^}(f_l(x)) / 2),   c^ = argmin_c d_c(f_l(x)),   M_l(x) = max_c -d_c(f_l(x')) / 2

Each layer has a separate x'. At x', M_l is again the maximum over all classes. sign(0) is +1, and x' is not clipped.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks,
NeurIPS 2018, arXiv 1807.03888, equations 3 and 4. The factor 1/2 is from the published code; the equations omit it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.full_precision import in_full_precision
from lightning_modules.robustness.mahalanobis.gaussians import (
    Whitened,
    mahalanobis_confidence,
    mahalanobis_distances,
    mean_confidence,
)
from lightning_modules.robustness.mahalanobis.layers import Layer, layer_features
from lightning_modules.robustness.mahalanobis.scores import direction
from lightning_modules.training.evaluation_mode import evaluate_without_gradients


def layer_confidence(
    network: nn.Module,
    layers: dict[str, Layer],
    whitened: list[Whitened],
    image: Tensor,
    epsilons: list[float],
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute M of each layer for each step size of the input pre-processing.

    The computation takes one forward pass, one backward pass per layer, and one forward pass for each combination of a
    layer and a non-zero epsilon. The gradients of the parameters are not computed.

    Args:
        network: network that maps images to logits, independently for each image.
        layers: L layers from `named_layers`.
        whitened: Gaussians of each layer, in whitened coordinates.
        image: `[B, C, H, W]`, in [0, 1]; must not be an inference tensor.
        epsilons: step sizes, in pixel units.

    Returns:
        The logits of the original images, `[B, K]`; the squared distances of the original images for each layer, `[B,
        C]`; and M, `[B, L, epsilons]`, in float64.
    """
    moves = any(epsilon != 0 for epsilon in epsilons)
    with torch.set_grad_enabled(moves):
        image = image.detach().requires_grad_(moves)
        logits, features = layer_features(network, layers, image)
        distances = [mahalanobis_distances(*of_layer) for of_layer in zip(features, whitened, strict=True)]
    rows = []
    for number, (name, gaussians) in enumerate(zip(layers, whitened, strict=True)):
        distance = distances[number]
        towards = image
        if moves:
            # The minimum over classes has the gradient of the nearest class; the factor 1/2 does not affect the sign.
            least = distance.amin(dim=1).sum()
            (gradient,) = torch.autograd.grad(least, image, retain_graph=number + 1 < len(layers))
            towards = direction(gradient)
        columns = []
        with torch.no_grad():
            for epsilon in epsilons:
                if epsilon == 0:
                    columns.append(-0.5 * distance.amin(dim=1))
                else:
                    _, [moved] = layer_features(network, {name: layers[name]}, image - epsilon * towards)
                    columns.append(mahalanobis_confidence(moved, gaussians))
        rows.append(torch.stack(columns, dim=1))
    return logits.detach(), [distance.detach() for distance in distances], torch.stack(rows, dim=1).detach()


class ImageScores:
    """Mixin of a detector with `network`, `layers` and `gaussians` that works on tensors, without a Trainer."""

    @evaluate_without_gradients
    def observe(self: Any, image: Tensor, label: Tensor) -> Tensor:
        """Add training images `[B, C, H, W]` in [0, 1] to the statistics of the classes, and return their logits."""
        with in_full_precision(image.device):
            logits, features = layer_features(self.network, self.layers, image)
            self.gaussians.update(features, label)
        return logits

    @evaluate_without_gradients
    def score_images(self: Any, image: Tensor) -> Tensor:
        """Compute the confidence `mean`, `[B]` in float64, that images are in distribution; it needs no tuning."""
        whitened = self.gaussians.whitenings()
        with in_full_precision(image.device):
            _, _, layers = layer_confidence(self.network, self.layers, whitened, image, [0.0])
        return mean_confidence(layers[:, :, 0], torch.tensor([each.rank for each in whitened]))
