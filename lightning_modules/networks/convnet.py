"""A small convolutional network: 3x3 convolutions with ReLU, global average pooling, and a linear classifier."""

from itertools import pairwise

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions with ReLU at the full resolution, then the mean over pixels and a linear layer.

    The layers are named `conv1`, `relu1`, `conv2`, ... and `classifier`.

    Args:
        in_channels: channels of an image.
        channels: output channels of each convolution.
        num_classes: number of logits, K.
    """

    def __init__(self, in_channels: int, channels: list[int], num_classes: int) -> None:
        super().__init__()
        for key, values in (
            ("in_channels", [in_channels]),
            ("channels", channels or [0]),
            ("num_classes", [num_classes]),
        ):
            if any(value < 1 for value in values):
                raise ValueError(f"{key} must be positive, got {channels if key == 'channels' else values[0]}")
        self.num_layers = len(channels)
        for number, (narrow, wide) in enumerate(pairwise([in_channels, *channels]), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(narrow, wide, 3, padding=1))
            self.add_module(f"relu{number}", nn.ReLU())
        self.classifier = nn.Linear(channels[-1], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[B, in_channels, H, W]` to logits `[B, num_classes]`."""
        for number in range(1, self.num_layers + 1):
            image = self.get_submodule(f"relu{number}")(self.get_submodule(f"conv{number}")(image))
        return self.classifier(image.mean(dim=(2, 3)))
