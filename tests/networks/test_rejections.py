from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.cifar_vit import CIFARViT
from lightning_modules.networks.convnet import ConvNet
from lightning_modules.networks.deeplab import deeplabv3_resnet50
from lightning_modules.networks.deepmind_wide_resnet import DeepMindWideResNet
from lightning_modules.networks.densenet_bc import DenseNetBC
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.ncsnpp import NCSNpp
from lightning_modules.networks.openai_unet import in_diffusers_names, openai_weights
from lightning_modules.networks.preact_bottleneck_resnet import PreActBottleneckResNet
from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.networks.sid_unet import SIDUNet
from lightning_modules.networks.spynet import SPyNet
from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.networks.time_conditioned_vit import TimeConditionedViT
from lightning_modules.networks.unet import UNet
from lightning_modules.networks.unet_discriminator import UNetDiscriminator
from lightning_modules.networks.vgg_perception import VGGPerception
from lightning_modules.networks.wide_resnet import WideResNet
from tests.networks import test_eanet, test_ncsnpp
from tests.networks.test_openai_unet import CONVOLUTIONS, RESIDUALS, SMALL, published
from tests.rejections import Row, rejections


def deeplab(**options: Any) -> Callable[[Path], object]:
    """Return a function that builds a network next to `other.pth`, a file of weights that do not fit it."""

    def build(root: Path) -> object:
        torch.save({"linear.weight": torch.zeros(2)}, root / "other.pth")
        given = {"weights": str(root / options["weights"])} if "weights" in options else {}
        return deeplabv3_resnet50(**{"num_classes": 2, **options, **given})

    return build


def of_other_weights(build: Callable[[str], object], **state: torch.Tensor) -> Callable[[Path], object]:
    def read(root: Path) -> object:
        save_file({name.replace("__", "."): value for name, value in state.items()}, root / "other.safetensors")
        return build(str(root / "other.safetensors"))

    return read


def openai_unet(layout: dict[str, Any], *more: str) -> object:
    weights = published(False).state_dict()
    return in_diffusers_names({**weights, **{name: torch.zeros(1) for name in more}}, UNet2DModel(**SMALL, **layout))


def small_frames() -> object:
    network = RealBasicVSR(SPyNet(None), width=4, num_blocks=1, num_cleaning_blocks=1)
    return network(torch.rand(1, 2, 3, 63, 80))


def vit(**options: int) -> object:
    return TimeConditionedViT(**{"image_size": 8, "patch_size": 4, "width": 8, "depth": 1, "num_heads": 4, **options})


# fmt: off
REJECTED: list[Row] = [
    *[
        (
            f"CIFARResNet depth {depth}",
            lambda _, depth=depth: CIFARResNet(depth),
            ValueError,
            f"depth must be 6n.*got {depth}",
        )
        for depth in (2, 18, 21)
    ],
    ("CIFARViT patch_size", lambda _: CIFARViT(patch_size=5), ValueError, "patch_size 5 does not divide"),
    ("CIFARViT num_heads", lambda _: CIFARViT(num_heads=7), ValueError, "num_heads 7"),
    ("ConvNet channels", lambda _: ConvNet(1, [], 3), ValueError, r"channels .*\[\]"),
    ("DeepLab weights twice", deeplab(pretrained_backbone=True, weights="x.pth"), ValueError,
     "pretrained_backbone cannot .* give one of"),
    ("DeepLab weights missing", deeplab(weights="missing.pth"), FileNotFoundError, r"no weights at .*missing\.pth"),
    ("DeepLab other weights", deeplab(weights="other.pth"), ValueError, "neither a DeepLabv3 nor a ResNet-50"),
    ("DeepMindWideResNet depth", lambda _: DeepMindWideResNet(depth=71), ValueError, "depth must be 6n"),
    ("DenseNetBC depth 101", lambda _: DenseNetBC(depth=101), ValueError, "depth must be 6n.*got 101"),
    ("EANet levels", lambda _: test_eanet.small(decoder=[1]), ValueError, "the same number of levels, got 2 and 1"),
    ("MLP input", lambda _: MLP(64, [8], 10)(torch.zeros(2, 1, 16, 16)), ValueError,
     r"in_features is 64, but an input \[1, 16, 16\] has 256 values"),
    ("NCSNpp width", lambda _: NCSNpp(**{**test_ncsnpp.SMALL, "width": 10}), ValueError,
     "width must be a multiple of 4, got 10"),
    ("NCSNpp image_size", lambda _: NCSNpp(**{**test_ncsnpp.SMALL, "image_size": 10, "multipliers": (1, 1, 1)}),
     ValueError, r"image_size 10 cannot be halved .* \[1, 1, 1\]"),
    ("NCSNpp embedding", lambda _: NCSNpp(**test_ncsnpp.SMALL, embedding="positional"), ValueError,
     "divide_by_level divides by sigma"),
    ("NCSNpp input", lambda _: test_ncsnpp.drawn()(torch.zeros(1, 1, 4, 4), torch.ones(1)), ValueError,
     r"images must have 8 rows and a multiple of . columns, got \[1, 1, 4, 4\]"),
    ("OpenAI U-Net of another layout", lambda _: openai_unet(RESIDUALS), ValueError,
     r"no input_blocks\.3\.0\.in_layers\.0\.weight, which this layout needs"),
    ("OpenAI U-Net with more layers",
     lambda _: openai_unet(CONVOLUTIONS, *(f"input_blocks.2.9.{n}" for n in range(5))), ValueError,
     r"has no layer for the published input_blocks\.2\..* and \d+ more"),
    ("OpenAI U-Net missing",
     lambda root: openai_weights(UNet2DModel(**SMALL, **CONVOLUTIONS), str(root / "nowhere.pt")),
     FileNotFoundError, r"nowhere\.pt does not exist; the readme files of openai"),
    ("PreActBottleneckResNet depth", lambda _: PreActBottleneckResNet(18), ValueError,
     r"depth must be 9n \+ 2 .*, got 18"),
    ("RealBasicVSR frames", lambda _: small_frames(), ValueError, "at least 64 x 64 pixels for SPyNet, got 63 x 80"),
    ("ShapeVAE image_size", lambda _: ShapeVAE(40, 8), ValueError, "image_size"),
    ("ShapeVAE widths", lambda _: ShapeVAE(32, 8, (1, 2, 3)), ValueError, "widths"),
    ("SIDUNet widths", lambda _: SIDUNet(widths=[8]), ValueError, r"widths must have at least two entries.* \[8\]"),
    ("SPyNet missing", lambda root: SPyNet(str(root / "spynet.safetensors")), FileNotFoundError, "no weights at"),
    ("SPyNet other weights", of_other_weights(SPyNet, basic_module__0__basic_module__0__weight=torch.zeros(1)),
     ValueError, r"missing: levels\.0\.0\.bias"),
    ("TimeConditionedViT patch_size", lambda _: vit(patch_size=3), ValueError, "patch_size"),
    ("TimeConditionedViT width 10", lambda _: vit(width=10), ValueError, "width"),
    ("TimeConditionedMLP width", lambda _: TimeConditionedMLP(16, width=7), ValueError, "width"),
    ("UNet levels", lambda _: UNet(1, 2, [64]), ValueError, "widths must have at least two entries, one per level"),
    ("UNet widths", lambda _: UNet(1, 2, [4, 0]), ValueError, "widths must .*at least 1"),
    ("UNetDiscriminator input", lambda _: UNetDiscriminator(1, 2)(torch.rand(1, 1, 16, 20)), ValueError,
     "multiples of 8"),
    ("VGGPerception other weights", of_other_weights(VGGPerception, features__0__weight=torch.zeros(64, 3, 3, 3)),
     ValueError, r"missing: features\.0\.bias"),
    ("WideResNet depth 30", lambda _: WideResNet(depth=30), ValueError, "depth must be 6n.*got 30"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
