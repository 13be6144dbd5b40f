"""Two small convolutional networks from the literature on Byzantine nodes, for MNIST and for CIFAR-10."""

from torch import nn


class MNISTCNN(nn.Sequential):
    """Map grey 28 x 28 images to logits by two 5 x 5 convolutions and two linear layers, with 431,080 parameters.

    Args:
        num_classes: number of logits, K.
    """

    def __init__(self, num_classes: int = 10) -> None:
        first = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, num_classes))


class CIFARCNN(nn.Sequential):
    """Map colour images of 32 x 32 pixels to logits by four 3 x 3 convolutions and two linear layers.

    BatchNorm follows each ReLU, and dropout of 0.25 follows each pooling and the hidden layer. The network has
    1,310,922 parameters.

    Args:
        num_classes: number of logits, K.
    """

    def __init__(self, num_classes: int = 10) -> None:
        layers: list[nn.Module] = []
        for narrow, wide in ((3, 64), (64, 128)):
            for channels in (narrow, wide):
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(wide)]
            layers += [nn.MaxPool2d(2), nn.Dropout(0.25)]
        hidden = [nn.Flatten(), nn.Linear(8192, 128), nn.ReLU(), nn.Dropout(0.25)]
        super().__init__(*layers, *hidden, nn.Linear(128, num_classes))
