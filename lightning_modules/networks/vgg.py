"""VGG for 32x32 images: five stages of 3x3 convolutions and a pooling layer, then three linear layers of width 512.

Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, arXiv
1409.1556; the classifier is that of Granziol, Zohren and Roberts, arXiv 2006.09092.
"""

from typing import Literal

from torch import Tensor, nn

from datamodules.arguments import one_of

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG-11, 13, 16 or 19: maps normalised images of 32 x 32 pixels to logits.

    Args:
        depth: number of layers with weights: 11, 13, 16 or 19.
        num_classes: number of logits, K.
        batch_norm: whether BatchNorm follows each convolution.
        dropout: dropout probability for the inputs of the classifier's first two layers.
        in_channels: channels of an image, C.
    """

    num_features = 512

    def __init__(
        self,
        depth: Literal[11, 13, 16, 19] = 16,
        num_classes: int = 10,
        batch_norm: bool = False,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        one_of(CONVOLUTIONS, depth=depth)
        layers: list[nn.Module] = []
        before = in_channels
        for count, channels in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(before, channels, 3, padding=1))
                layers += [nn.BatchNorm2d(channels)] if batch_norm else []
                layers.append(nn.ReLU())
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(512, 512), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(512, self.num_features), nn.ReLU()),
        )
        self.linear = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map normalised images `[B, C, 32, 32]` to features `[B, 512]`."""
        return self.classifier(self.features(image).flatten(start_dim=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.forward_features(image))
