"""Ensembles of finite-width networks whose last layers have random scales.

    h <- s(w W h / sqrt(n) + b beta),    f = sigma W h / sqrt(n),    sigma^2 ~ inverse gamma(alpha, beta)

The initial weights are N(0, 1), and sigma is sampled once per network. As the widths grow, the distribution of the
output f of an untrained network for a given input approaches a t distribution with 2 alpha degrees of freedom and
squared scale (beta / alpha) K.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive
from datamodules.batches import LabelledImageBatch
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import MOMENTS, ActivationName
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.torch_internals import standard_gamma
from lightning_modules.training.logging import log_training


class FiniteNetworks(nn.Module):
    """An ensemble of independent networks that are evaluated in parallel.

    The networks are either dense, or convolutional with 3 x 3 kernels and without pooling.

    Args:
        members: number E of networks in the ensemble.
        input_shape: shape of an input: `[D]` for dense networks, or channels, height and width for convolutional
            networks.
        outputs: number C of outputs of each network.
        width: number of units or channels of each hidden layer.
        depth: number of hidden layers.
        activation: activation function, `relu` or `erf`.
        weight_std: standard deviation w of the weights.
        bias_std: standard deviation b of the biases.
        alpha: shape parameter of the inverse gamma distribution of the scales; None sets all scales to 1.
        beta: scale parameter of the inverse gamma distribution of the scales.
    """

    sigma: Tensor

    def __init__(
        self,
        members: int,
        input_shape: Sequence[int],
        outputs: int,
        width: int = 32,
        depth: int = 4,
        activation: ActivationName = "relu",
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        alpha: float | None = 2.0,
        beta: float = 2.0,
    ) -> None:
        super().__init__()
        at_least(1, members=members, outputs=outputs, width=width, depth=depth)
        at_least(0, bias_std=bias_std)
        positive(weight_std=weight_std, alpha=alpha, beta=beta)
        one_of((1, 3), length_of_input_shape=len(input_shape))
        one_of(MOMENTS, activation=activation)
        self.members = members
        self.convolutional = len(input_shape) == 3
        self.activation = F.relu if activation == "relu" else torch.erf
        self.weight_std = weight_std
        self.bias_std = bias_std
        widths = [input_shape[0], *[width] * depth]
        kernel = (3, 3) if self.convolutional else ()
        self.weights = nn.ParameterList(torch.randn(members, new, old, *kernel) for old, new in pairwise(widths))
        self.biases = nn.ParameterList(torch.randn(members, width) for _ in widths[1:] if bias_std)
        self.last = nn.Parameter(torch.randn(members, outputs, width * math.prod(input_shape[1:])))
        gamma = torch.ones(members)
        if alpha is not None:  # on the CPU, because torch 2.10 lacks the gamma distribution on the meta device
            gamma = standard_gamma(torch.full((members,), alpha, device="cpu")).to(self.last.device)
        self.register_buffer("sigma", torch.ones(members) if alpha is None else (beta / gamma).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs `[B, D]` or `[B, channels, H, W]` to the outputs of all networks, `[B, C, E]`."""
        h = x[:, None] if self.convolutional else x[:, None].expand(-1, self.members, -1)
        for layer, weight in enumerate(self.weights):
            factor = self.weight_std / math.sqrt(weight[0, 0].numel())
            if self.convolutional:
                groups = 1 if layer == 0 else self.members
                image = F.conv2d(h.flatten(1, 2), weight.flatten(0, 1), padding=1, groups=groups)
                h = factor * image.unflatten(1, weight.shape[:2])
            else:
                h = factor * torch.einsum("bei,eoi->beo", h, weight)
            if self.bias_std:
                bias = self.biases[layer]
                h = h + self.bias_std * bias.view(*bias.shape, *[1] * (h.ndim - 3))
            h = self.activation(h)
        h = h.flatten(start_dim=2)
        return torch.einsum("bei,eoi->boe", h, self.last) * (self.sigma / math.sqrt(h.shape[2]))


class ScaleMixtureEnsemble(ClassifierSteps, MethodModule):
    """Train an ensemble of finite-width networks; the loss is each network's own cross-entropy.

    Images are classified by the mean of the logits of all networks.

    Args:
        network: `FiniteNetworks`, optionally wrapped in `Normalized`, which maps images to logits `[B, C, E]`.
        num_classes: number of classes, C.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the mean of the logits of all networks, `[B, C]`, for images in [0, 1]."""
        return self.network(image).mean(dim=2)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch["image"])
        members = logits.shape[2]
        of_all = F.cross_entropy(logits, batch["label"][:, None].expand(-1, members))
        loss = log_training(self, batch, members * of_all)
        return {"loss": loss, "logits": logits.detach().mean(dim=2)}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
