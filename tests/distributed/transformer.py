"""A transformer whose sums lie away from the thresholds of quantisers."""

from typing import Any

from torch import nn

from lightning_modules.backbones import timm_model


def biased_transformer(**arguments: Any) -> nn.Module:
    """A network of timm, as `timm_model` has it, whose biases are not zero.

    Without a bias, sums over few levels of weights and inputs cancel: they are zero up to rounding, and zero is a
    threshold of what quantises behind a GELU. Which side of it they fall on is then the processor's choice.
    """
    network = timm_model(**arguments)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return network
