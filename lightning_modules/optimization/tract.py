"""Train the first layer as if its pre-activations were trainable (TrAct).

The gradient with respect to the weights of the first layer is proportional to the pixel values. Bright images with high
contrast therefore dominate the training of this layer. TrAct updates the weights by the step that best approximates a
gradient step on the pre-activations z = X W^T. Here X, `[b, n]`, contains the b input rows of the batch (for a
convolution, all patches). With the mean loss L and G = dL/dz, the update is

    dW* = argmin ||-eta b G - X dW^T||^2 + lambda b ||dW||^2 = -eta G^T X (X^T X / b + lambda I)^-1,

The optimizer therefore receives

    grad W = (G^T X) (X^T X / b + lambda I)^-1

instead of G^T X. The forward pass and all other gradients are those of the plain layer. If X has fewer rows than
columns, as for a convolution with few or large patches, the Woodbury identity is used, which only requires the inverse
of a b x b matrix:

    (X^T X / b + lambda I)^-1 = (I - X^T (X X^T + lambda b I)^-1 X) / lambda.

The weights of the layer keep their names. A network with TrAct can therefore load the checkpoints of the plain network,
and vice versa. Images must be standardised before the first layer, because lambda has the unit of their variance.

By default, each rank computes X^T X from its own rows, as in the published multi-GPU runs. With `sync_gram`, X^T X (n x
n) is all-reduced, so that the results are equal to those of a single process. With gradient accumulation, each
accumulated batch has its own X^T X.

This implementation differs from the authors' code in the following points. The linear system is solved by Cholesky
factorisation, in single precision or above for any training precision. Options of a convolution that the authors' code
ignores (groups, padding modes) are rejected.

Source: Petersen, Borgelt and Ermon, TrAct: Making First-layer Pre-Activations Trainable, NeurIPS 2024,
arXiv 2410.23970.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import positive
from datamodules.batches import LabelledImageBatch
from datamodules.distributed.collectives import world_size
from lightning_modules.backbones.replacement import layers_named, replace_layers
from lightning_modules.full_precision import at_least_float32, in_full_precision
from lightning_modules.linear_algebra import cholesky_factor
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step, refuse_smoothed

AT_ONCE = 2**24
"""Maximum number of values of unfolded patches that are in memory at once."""


def num_input_rows(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> int:
    """Return the number b of input rows of a layer.

    For a convolution, each patch is a row.
    """
    if isinstance(layer, nn.Linear):
        return inputs[..., 0].numel()
    kernel: Any = zip(inputs.shape[2:], layer.kernel_size, layer.dilation, layer.padding, layer.stride, strict=True)
    return len(inputs) * math.prod((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, d, p, s in kernel)


def layer_rows(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Iterator[Tensor]:
    """Yield the input rows X of the layer in chunks `[b, n]`, in single precision or above."""
    inputs = at_least_float32(inputs.to(layer.weight.dtype))
    if isinstance(layer, nn.Linear):
        yield inputs.flatten(end_dim=-2)
        return
    numbers = layer.weight[0].numel() * inputs[0, 0].numel()  # values in the patches of one image at stride 1
    kernel: Any = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    for images in inputs.split(max(1, AT_ONCE // numbers)):
        yield F.unfold(images, *kernel).transpose(1, 2).flatten(end_dim=1)


def precondition_gradient(gradient: Tensor, factor: Tensor, rows: Tensor | None, ridge: float) -> Tensor:
    """Multiply a weight gradient by (X^T X / b + lambda I)^-1.

    Args:
        gradient: weight gradient G^T X, `[m, n]`.
        factor: lower Cholesky factor of X^T X / b + lambda I, `[n, n]`, or, if `rows` is set, of X X^T + lambda b I,
            `[b, b]`.
        rows: input rows X, `[b, n]`, if `factor` has the second form; None if `factor` has the first form.
        ridge: weight lambda of the penalty on the weight update.

    Returns:
        The product, `[m, n]`.
    """
    if rows is None:
        return torch.cholesky_solve(gradient.T, factor).T
    return (gradient - torch.cholesky_solve(rows @ gradient.T, factor).T @ rows) / ridge


class _PreActivationGradient(torch.autograd.Function):
    """The identity in the forward pass; the backward pass replaces the weight gradient by that of TrAct."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor, rows: Tensor | None, ridge: float) -> Tensor:
        ctx.save_for_backward(factor, rows)
        ctx.ridge = ridge
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        factor, rows = ctx.saved_tensors
        with in_full_precision(gradient.device):
            matrix = gradient.flatten(start_dim=1).to(factor.dtype)
            return (
                precondition_gradient(matrix, factor, rows, ctx.ridge).view_as(gradient).to(gradient.dtype),
                None,
                None,
                None,
            )


def pre_activation_weight(layer: nn.Linear | nn.Conv2d, inputs: Tensor, ridge: float, sync_gram: bool) -> Tensor:
    """Return the weight of a layer as a tensor whose backward pass gives the gradient of TrAct.

    The loss must be a mean over samples.

    Args:
        layer: layer whose weight is `[m, n]` or `[m, C, kh, kw]`.
        inputs: inputs of the layer, `[..., n]` or `[B, C, H, W]`.
        ridge: weight lambda of the penalty on the weight update.
        sync_gram: whether to all-reduce X^T X over ranks.
    """
    if not (torch.is_grad_enabled() and layer.weight.requires_grad):
        return layer.weight
    with torch.no_grad(), in_full_precision(inputs.device):
        parts, kept = layer_rows(layer, inputs), None
        if num_input_rows(layer, inputs) < layer.weight[0].numel() and not sync_gram:
            kept = torch.cat(list(parts))
            factor = cholesky_factor(kept @ kept.T, ridge * len(kept))
        else:
            rows = next(parts)
            gram = torch.cat([rows.T @ rows, rows.new_full((1, rows.shape[1]), len(rows))])  # last row: b
            for part in parts:
                gram[:-1].addmm_(part.T, part)
                gram[-1] += len(part)
            if sync_gram and world_size() > 1:
                dist.all_reduce(gram)
            factor = cholesky_factor(gram[:-1] / gram[-1], ridge)
    return _PreActivationGradient.apply(layer.weight, factor, kept, ridge)


class TrActLinear(nn.Linear):
    """A linear layer that shares the parameters of a given layer, and whose weight receives the gradient of TrAct."""

    def __init__(self, layer: nn.Linear, ridge: float, sync_gram: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.ridge, self.sync_gram = ridge, sync_gram

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, pre_activation_weight(self, input, self.ridge, self.sync_gram), self.bias)


class TrActConv2d(nn.Conv2d):
    """A convolution that shares the parameters of a given layer, and whose weight receives the gradient of TrAct."""

    def __init__(self, layer: nn.Conv2d, ridge: float, sync_gram: bool) -> None:
        kernel: Any = layer.kernel_size
        padding: Any = layer.padding
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            kernel,
            layer.stride,  # type: ignore[arg-type]
            padding,
            layer.dilation,  # type: ignore[arg-type]
            bias=False,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.ridge, self.sync_gram = ridge, sync_gram

    def forward(self, input: Tensor) -> Tensor:
        weight = pre_activation_weight(self, input, self.ridge, self.sync_gram)
        return self._conv_forward(input, weight, self.bias)


def train_pre_activations(network: nn.Module, first_layer: str | None, ridge: float, sync_gram: bool = False) -> str:
    """Replace the first layer of a network, in place, by a layer whose weight receives the gradient of TrAct.

    The new layer shares the parameters of the replaced layer.

    Args:
        network: network that contains the layer; its parameters remain the same objects with the same names.
        first_layer: name of a `Linear` or `Conv2d` layer, or a name pattern (see `layers_named`), of which the first
            match in the order of definition is used. None means the first `Linear` or `Conv2d` layer of the network.
        ridge: weight lambda of the penalty on the weight update.
        sync_gram: whether to all-reduce X^T X over ranks.

    Returns:
        The name of the replaced layer.

    Raises:
        ValueError: if there is no such layer, or if TrAct does not support it. TrAct supports `Linear` and `Conv2d`
            layers that are not frozen; a convolution must not have groups, named padding or a padding mode other than
            zeros.
    """
    layers = layers_named(network, [first_layer or "*"], (nn.Linear, nn.Conv2d), "first_layer")
    name, layer = next(iter(layers.items()))
    if isinstance(layer, nn.Conv2d):
        for key, value, allowed in (("groups", layer.groups, 1), ("padding_mode", layer.padding_mode, "zeros")):
            if value != allowed:
                raise ValueError(f"first_layer: {name} has {key} {value!r}, but TrAct supports only {allowed!r}")
        if isinstance(layer.padding, str):
            raise ValueError(f"first_layer: {name} has padding {layer.padding!r}, but TrAct supports only numbers")
    kind: Any = TrActConv2d if isinstance(layer, nn.Conv2d) else TrActLinear
    replace_layers(network, {name: layer}, "first_layer", lambda _, layer: kind(layer, ridge, sync_gram))
    return name


class TrAct(ClassifierSteps, MethodModule):
    """Train a classifier with cross-entropy, and update its first layer by TrAct.

    The updates of the first layer approximate gradient steps on the layer's pre-activations.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`; it must standardise
            images before its first layer, as `lightning_modules.backbones.normalized.Normalized` does.
        num_classes: number of classes, K.
        ridge: weight lambda of the penalty on the weight update; the paper uses 0.05 for short training, and 0.2 for
            long training.
        first_layer: name of the first layer of the network, a Linear or Conv2d layer; None means the first layer of
            these types in the order of definition.
        sync_gram: whether to all-reduce X^T X of the first layer, so that results do not depend on the world size.
        soft_labels: settings for mixing images and labels, and for label smoothing; None disables both. If images are
            mixed, callbacks do not receive logits of training images.
        binary: whether to use the binary cross-entropy of each class; all classes that are mixed in an image then have
            the target 1.
        view: augmentation of training images on the device, such as `lightning_modules.views.ThreeAugment`; None
            disables the augmentation.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        ridge: float = 0.1,
        first_layer: str | None = None,
        sync_gram: bool = False,
        soft_labels: SoftLabels | None = None,
        binary: bool = False,
        view: nn.Module | None = None,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(ridge=ridge)
        refuse_smoothed(soft_labels, binary)
        self.network = network
        self.num_classes = num_classes
        self.first_layer = train_pre_activations(network, first_layer, ridge, sync_gram)
        self.soft_labels = soft_labels
        self.binary = binary
        self.view = view
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return cross_entropy_step(self, batch, self.soft_labels, self.binary, self.view)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
