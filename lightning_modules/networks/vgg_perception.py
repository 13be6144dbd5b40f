"""Perceptual distance between images: absolute differences of the inputs of five ReLUs in VGG19.

    L = sum over layers l of w_l mean |phi_l(x) - phi_l(y)|,      l = 2, 7, 16, 25, 34,    w = .1, .1, 1, 1, 1

phi_l(x) is the output of layer l of VGG19 for an image x. Images are in [0, 1]; the module normalises them by
ImageNet's mean and standard deviation.

Source: Wang, Xie, Dong and Shan, Real-ESRGAN, ICCV Workshops 2021, arXiv 2107.10833; Simonyan and Zisserman, ICLR 2015,
arXiv 1409.1556 (VGG19).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from lightning_modules.backbones.weights import load, on_meta, read_weights

WEIGHTS = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


class VGGPerception(nn.Module):
    """Measure the distance between images by the features of a frozen VGG19.

    Args:
        weights: file with torchvision's weights of `vgg19`, either of the whole network or only of its part `features`.
            None uses random weights, which are meant for tests.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.features = make_layers(cfgs["E"])[: max(WEIGHTS) + 1]
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):  # ImageNet's
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        if weights is not None and not on_meta(self):
            own = self.state_dict()
            found = {key: value for key, value in read_weights(weights).items() if key in own}
            load(self, found, weights)
        self.requires_grad_(False)

    def forward(self, image: Tensor, clean: Tensor) -> Tensor:
        """Compute the distance L of images `[B, 3, H, W]` from clean images, without gradient for the clean images."""
        x, y = ((each - self.mean) / self.std for each in (image, clean.detach()))
        distance = image.new_zeros(())
        for number, layer in enumerate(self.features):
            if isinstance(layer, nn.ReLU):
                x, y = F.relu(x), F.relu(y)  # not in place, because the features before the ReLU were compared
                continue
            x, y = layer(x), layer(y)
            if number in WEIGHTS:
                distance = distance + WEIGHTS[number] * F.l1_loss(x, y)
        return distance
