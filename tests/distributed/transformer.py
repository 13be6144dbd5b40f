"""A transformer whose intermediate sums are not close to the thresholds of quantisers."""

from typing import Any

from torch import nn

from lightning_modules.backbones import timm_model


def biased_transformer(**arguments: Any) -> nn.Module:
    """Build a timm network as `timm_model` does, with non-zero biases.

    Without a bias, sums over few quantisation levels cancel to zero up to rounding, and zero is a threshold of the
    quantiser behind a GELU. The side on which such sums fall would depend on the processor.
    """
    network = timm_model(**arguments)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return network
