"""Build segmentation networks from segmentation-models-pytorch by name."""

import difflib
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.adaptation import Tuning, adapt
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.weights import load, loaded_from, read_weights

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class FilledUp(nn.Module):
    """Wrap a network: images are padded so that `multiple` divides their sides, and logits are cropped to match.

    Args:
        network: network that maps images `[B, C, H, W]` to logits `[B, K, H, W]`.
        multiple: number by which the padded height and width are divisible.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        filled = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        return self.network(filled)[..., :height, :width]


def smp_model(
    name: str,
    num_classes: int,
    encoder: str = "resnet34",
    pretrained: bool = False,
    weights: str | None = None,
    in_channels: int = 3,
    normalize: bool = True,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    tuning: Tuning = "full",
    **adaptation: Any,
) -> nn.Module:
    """Build a segmentation-models-pytorch network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, K, H, W]`.

    Images may have any size. On the meta device, where parameters have no values, no weights are read or downloaded.

    Args:
        name: Unet, UnetPlusPlus, FPN, DeepLabV3Plus, UPerNet, Segformer or another architecture of the package; not
            case-sensitive.
        num_classes: number of pixel classes, K, including the background.
        encoder: name of an encoder in segmentation-models-pytorch, or `tu-` followed by the name of a timm network.
        pretrained: load the encoder's ImageNet weights from the Hugging Face Hub or from its local cache.
        weights: local file with weights of the whole network, trained with `num_classes` classes.
        in_channels: number of image channels, C.
        normalize: normalise images inside the network, so that inputs are images in [0, 1]. If false, inputs must
            already be normalised.
        mean: mean of each channel, in pixel units; None uses the mean of ImageNet.
        std: standard deviation of each channel, in pixel units; None uses the standard deviation of ImageNet.
        tuning: `full` trains all parameters, `lora` trains only adapters, and `frozen` trains nothing.
        adaptation: further arguments of `adapt`; they control adapters, trainable submodules, gradient checkpointing
            and precision.

    Raises:
        ImportError: if segmentation-models-pytorch is not installed.
        ValueError: if an argument is unknown, or is incompatible with the network or with a different argument; the
            message names the argument.
        FileNotFoundError: if there are no weights at the path `weights`, or if pretrained weights cannot be downloaded.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError(
            "smp_model needs segmentation-models-pytorch: pip install 'noiseworks[segmentation]'"
        ) from error
    kinds: dict[str, Any] = {key.lower(): kind for key, kind in vars(smp).items() if inspect.isclass(kind)}
    if name.lower() not in kinds:
        there = ", ".join(sorted(kind.__name__ for kind in kinds.values()))
        raise ValueError(f"name: segmentation-models-pytorch has no {name}; it has {there}")
    known = smp.encoders.get_encoder_names()
    if not encoder.startswith("tu-") and encoder not in known:
        close = difflib.get_close_matches(encoder, known, n=5, cutoff=0.4)
        raise ValueError(
            f"encoder: segmentation-models-pytorch has no {encoder}; it has {', '.join(close or known[:10])} and others"
        )
    if pretrained and weights is not None:
        raise ValueError(f"pretrained cannot be combined with weights={weights}: give one of the two")
    if normalize and in_channels != 3 and (mean is None or std is None):
        raise ValueError(
            f"mean and std must be given, with one value per channel, because in_channels is {in_channels}, not 3"
        )
    on_meta = torch.get_default_device().type == "meta"
    try:
        network: Any = kinds[name.lower()](
            encoder_name=encoder,
            encoder_weights="imagenet" if pretrained and not on_meta else None,
            in_channels=in_channels,
            classes=num_classes,
        )
    except OSError as error:
        raise FileNotFoundError(
            f"pretrained: the weights of {encoder} are not in the Hugging Face cache and could not be downloaded"
        ) from error
    except (KeyError, RuntimeError) as error:  # raised by segmentation-models-pytorch and by timm for unknown names
        raise ValueError(f"{name} on {encoder}: {' '.join(str(error).split())}") from error
    if pretrained and not on_meta:
        loaded_from(encoder, network)
    if weights is not None and not on_meta:
        load(network, read_weights(weights), weights)
    sized = FilledUp(network, network.encoder.output_stride) if network.requires_divisible_input_shape else network
    if normalize:
        sized = Normalized(sized, mean or IMAGENET_MEAN, std or IMAGENET_STD)
    return adapt(sized, tuning=tuning, **adaptation)
