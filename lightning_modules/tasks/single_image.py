"""Restoration of single images with networks that are fitted separately to each image."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.randomness.generators import sample_integers
from lightning_modules.tasks.restorer import RestorerSteps


def with_new_weights(network: nn.Module) -> nn.Module:
    """Return a copy of a network; the copy is in training mode and has newly initialised trainable weights."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return network.train().requires_grad_(True)


class SingleImageSteps(RestorerSteps):
    """Mixin with the validation, test and prediction steps of a module that fits networks to each image.

    The module defines `fitted_estimate`. Its random numbers depend only on the run's seed and on the index of the first
    image of the batch. The global random state is not changed.
    """

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        """Fit networks to an image `[1, C, H, W]`, and return the estimate of the clean image, without gradient."""
        raise NotImplementedError

    def restore(self: Any, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Denoise images `[B, C, H, W]` one at a time, without clipping the result."""
        estimates = []
        devices = [degraded.device] if degraded.device.type == "cuda" else []
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(degraded.device.type, enabled=False):
            for image in degraded.clone().to(torch.promote_types(degraded.dtype, torch.float32)):
                seed = int(sample_integers(2**62, 1, generator))
                with torch.random.fork_rng(devices):
                    torch.manual_seed(seed)
                    estimates.append(self.fitted_estimate(image[None]))
        return torch.cat(estimates)


class SingleImageBaseline(SingleImageSteps):
    """Base class of methods that fit single images. These methods have no training data, and reject `fit`."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            name = type(self).__name__
            raise ValueError(f"{name} has no training set: run test or predict, which fit a network to each image")
