"""Features of a classifier: what its last linear layer is given."""

from torch import nn


def without_head(network: nn.Module) -> nn.Module:
    """Takes the classifier off a network, which then gives the features before it.

    Args:
        network: whose last `nn.Linear` is its classifier. The other names in its state dict stay as they are.

    Returns:
        `network` itself.

    Raises:
        ValueError: if it has no linear layer inside.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    if not names:
        raise ValueError(f"network must end in a linear layer, and {type(network).__name__} has none")
    network.set_submodule(names[-1], nn.Identity())
    return network
