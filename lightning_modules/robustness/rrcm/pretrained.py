"""Begin fine-tuning with the weights of a pre-training run."""

from typing import Literal

from torch import nn

from lightning_modules.backbones.weights import load, read_weights


def pretrained_encoder(
    network: nn.Module, path: str, copy: Literal["average", "network", "target_network"] = "average"
) -> nn.Module:
    """Load an encoder's weights from a checkpoint of `RRCMPretraining`.

    On the meta device, where parameters have no values, nothing is read.

    Args:
        network: the encoder as it was pre-trained; its last norm may be left out, as for CIFAR-10.
        path: the checkpoint, or a folder with one.
        copy: one of the three copies: the slow average, the network that was trained, or its target.

    Returns:
        `network` itself.

    Raises:
        FileNotFoundError: if there is no checkpoint at `path`.
        ValueError: if it is damaged, not of such a run, or of another network.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return network
    weights = read_weights(path, f"{copy}.")
    if isinstance(getattr(network, "norm", None), nn.Identity):
        weights = {name: value for name, value in weights.items() if not name.startswith("norm.")}
    load(network, weights, path)
    return network
