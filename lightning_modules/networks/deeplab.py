"""torchvision's DeepLabv3 with a ResNet-50 backbone. It returns only logits; weights come from local files.

Source: Chen, Papandreou, Schroff and Adam, Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv
1706.05587.
"""

import urllib.error

import torch
from torch import Tensor, nn

from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import join_names, load, loaded_from, read_weights

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class PlainLogits(nn.Module):
    """Wrapper for a torchvision segmentation network, which returns the logits as a tensor instead of a dict.

    Args:
        network: maps images `[B, C, H, W]` to a dict, whose entry `out` contains the logits `[B, K, H, W]`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)["out"]


def deeplabv3_resnet50(
    num_classes: int,
    pretrained_backbone: bool = False,
    weights: str | None = None,
    normalize: bool = True,
) -> nn.Module:
    """Build DeepLabv3 on a ResNet-50 of output stride 8.

    The network maps images `[B, 3, H, W]` in [0, 1] to logits `[B, K, H, W]`.

    No weights are read or downloaded on the meta device, because parameters on this device have no values.

    Args:
        num_classes: K, number of pixel categories, including the background.
        pretrained_backbone: whether to initialise the ResNet-50 with torchvision's ImageNet weights, which are read
            from torchvision's cache or downloaded.
        weights: local file of weights, or folder that contains one. The file may contain a whole torchvision network.
            If the last layer in the file has a different number of categories, this layer is not loaded and keeps its
            random initial weights. The weights of an auxiliary classifier are ignored. The file may also contain a
            ResNet-50 classifier, whose layers are loaded into the backbone.
        normalize: whether the network normalises images in [0, 1] by ImageNet's mean and standard deviation; if false,
            the images must already be normalised.

    Returns:
        The network, wrapped in `Normalized` if `normalize` is true.

    Raises:
        ValueError: if both `pretrained_backbone` and `weights` are set, or the file's weights do not fit the network.
        FileNotFoundError: if `weights` does not exist, or the backbone's weights cannot be downloaded.
    """
    from torchvision.models import ResNet50_Weights
    from torchvision.models.segmentation import deeplabv3_resnet50 as torchvision_deeplab

    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if pretrained_backbone and weights is not None:
        raise ValueError(f"pretrained_backbone cannot be combined with weights={weights}: give one of the two")
    on_meta = torch.get_default_device().type == "meta"
    fetched = ResNet50_Weights.IMAGENET1K_V1 if pretrained_backbone and not on_meta else None
    try:
        network = torchvision_deeplab(
            weights=None, weights_backbone=fetched, num_classes=num_classes, aux_loss=False, progress=False
        )
    except (urllib.error.URLError, OSError) as error:
        raise FileNotFoundError(
            "pretrained_backbone: torchvision's ResNet-50 weights are not in its cache and could not be downloaded; "
            "download them on a machine with internet access, and set weights to the file"
        ) from error
    if fetched is not None:
        loaded_from(str(fetched), network)
    if weights is not None and not on_meta:
        _read_into(network, weights)
    plain = PlainLogits(network)
    return Normalized(plain, IMAGENET_MEAN, IMAGENET_STD) if normalize else plain


def _read_into(network: nn.Module, path: str) -> None:
    """Load weights of a whole network into `network`, or weights of a ResNet-50 into its backbone."""
    state = read_weights(path)
    own = network.state_dict()
    if not any(key.startswith("backbone.") for key in state):
        backbone = network.get_submodule("backbone")
        if "conv1.weight" not in state:
            raise ValueError(
                f"weights: {path} is neither a DeepLabv3 nor a ResNet-50; its keys are {join_names(state)}"
            )
        load(backbone, {key: value for key, value in state.items() if not key.startswith("fc.")}, path)
        return
    state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    for key in ("classifier.4.weight", "classifier.4.bias"):
        if key in state and len(state[key]) != len(own[key]):
            state[key] = own[key]
    load(network, state, path)
