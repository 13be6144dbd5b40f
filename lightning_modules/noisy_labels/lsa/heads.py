"""The layers that begin anew on pre-trained features: they may learn faster than these."""

from collections.abc import Iterable

from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from lightning_modules.noisy_labels.learning_rate_groups import scale_learning_rates


def optimizer_with_heads(
    optimizer: OptimizerCallable, module: nn.Module, heads: Iterable[nn.Module], lr_factor: float
) -> Optimizer:
    """Builds an optimizer on a module's trainable parameters.

    Args:
        optimizer: its learning rate is that of everything but the heads.
        module: has the parameters.
        heads: parts of it.
        lr_factor: their learning rate as a multiple of the others'; 1 makes one group of all.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if lr_factor == 1:
        return optimizer(parameters)
    of_heads = {id(parameter) for head in heads for parameter in head.parameters()}
    groups = [
        {"params": [parameter for parameter in parameters if id(parameter) not in of_heads]},
        {"params": [parameter for parameter in parameters if id(parameter) in of_heads], "lr_factor": lr_factor},
    ]
    built = optimizer(groups)
    scale_learning_rates(built)
    return built
