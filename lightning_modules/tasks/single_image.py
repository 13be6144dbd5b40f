"""Restoration of single images by networks that are fitted to each image alone."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.tasks.restorer import RestorerSteps


def with_new_weights(network: nn.Module) -> nn.Module:
    """Copy an architecture, with newly initialised trainable weights, in training mode."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return network.train().requires_grad_(True)


class SingleImageSteps(RestorerSteps):
    """Validation, test and prediction steps of a module that fits networks to each image.

    The module defines `fitted_estimate`. Random numbers follow from the run's seed and the position of the first image
    of a batch, and the global random state does not change.
    """

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        """Fit networks to one image `[1, C, H, W]`, and return the estimate of the clean image without gradient."""
        raise NotImplementedError

    def restore(self: Any, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise images `[B, C, H, W]` one by one; the result is not clipped."""
        estimates = []
        devices = [degraded.device] if degraded.device.type == "cuda" else []
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(degraded.device.type, enabled=False):
            for image in degraded.clone().to(torch.promote_types(degraded.dtype, torch.float32)):
                seed = int(torch.randint(2**62, (), generator=generator))
                with torch.random.fork_rng(devices):
                    torch.manual_seed(seed)
                    estimates.append(self.fitted_estimate(image[None]))
        return torch.cat(estimates)


class SingleImageBaseline(SingleImageSteps):
    """A method for single images without training data: `fit` is rejected."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            name = type(self).__name__
            raise ValueError(f"{name} has no training set, it fits a network to each image: run test or predict")
