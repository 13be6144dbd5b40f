"""Normalisation of images as the first layer of a network.

    f(x) = g((x - mean) / std),  x in [0, 1].

All code outside networks processes images in [0, 1]. Noise levels, attack radii and certified radii are therefore in
pixel units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Batch normalisation layers, for `isinstance`."""


class Normalized(nn.Module):
    """Wrap a network so that it receives images in [0, 1] and normalises them.

    The attribute `network` is the wrapped network, so state_dict keys have the prefix `network.`. The mean and the
    standard deviation come from the config, and are not part of the state_dict.

    Args:
        network: network that receives normalised images `[B, C, H, W]`.
        mean: one value per channel, or one value for all channels, in pixel units; None uses the value in the
            `pretrained_cfg` of a timm network.
        std: one positive value per channel, or one value for all channels, in pixel units; None uses the value in the
            `pretrained_cfg` of a timm network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        statistics = {}
        for key, value in (("mean", mean), ("std", std)):
            if value is None:
                own = getattr(network, "pretrained_cfg", None) or {}
                value = own.get(key)
            if value is None:
                raise ValueError(
                    f"{key} must be given, with one value per channel: {type(network).__name__} does not define it"
                )
            statistics[key] = torch.tensor(value, dtype=torch.get_default_dtype()).view(-1, 1, 1)
            if key == "std" and min(value) <= 0:
                raise ValueError(f"std must be positive, got {list(value)}")
        if len(statistics["mean"]) != len(statistics["std"]):
            raise ValueError(
                f"mean and std must have equal lengths, got {len(statistics['mean'])} and {len(statistics['std'])}"
            )
        self.network = network
        for key, statistic in statistics.items():
            self.register_buffer(key, statistic, persistent=False)

    def normalize(self, image: Tensor) -> Tensor:
        """Compute (image - mean) / std for images `[B, C, H, W]` in [0, 1]."""
        if len(self.mean) not in (1, image.shape[-3]):
            raise ValueError(f"mean has {len(self.mean)} values, but the image has {image.shape[-3]} channels")
        return (image - self.mean) / self.std

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.normalize(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Call the wrapped network's `forward_features` on images `[B, C, H, W]` in [0, 1]."""
        return self.network.forward_features(self.normalize(image))  # type: ignore[operator]
