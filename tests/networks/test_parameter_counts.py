"""Numbers of trainable parameters, which are those of the papers or of the authors' code."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules.networks.byzantine_cnns import CIFARCNN, MNISTCNN
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.cifar_vit import CIFARViT
from lightning_modules.networks.cycle_generator import ResNetGenerator
from lightning_modules.networks.densenet_bc import DenseNetBC
from lightning_modules.networks.dncnn import DnCNN
from lightning_modules.networks.eanet import EANet
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.ncsnpp import NCSNpp
from lightning_modules.networks.noise2noise_unet import Noise2NoiseUNet
from lightning_modules.networks.patch_discriminator import PatchDiscriminator
from lightning_modules.networks.preact_bottleneck_resnet import PreActBottleneckResNet
from lightning_modules.networks.preact_resnet import PreActResNet18
from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.resnet_cifar_stem import CIFARStemResNet
from lightning_modules.networks.sid_unet import SIDUNet
from lightning_modules.networks.spynet import SPyNet
from lightning_modules.networks.unet_discriminator import UNetDiscriminator
from lightning_modules.networks.vgg import VGG
from lightning_modules.networks.wide_resnet import WideResNet
from tests.networks.test_ncsnpp import DDPMPP

NETWORKS: list[tuple[Callable[[], nn.Module], int]] = [
    (MNISTCNN, 431_080),
    (CIFARCNN, 1_310_922),
    (lambda: CIFARResNet(20), 269_722),
    (lambda: CIFARResNet(32), 464_154),
    (lambda: CIFARResNet(44), 658_586),
    (lambda: CIFARResNet(56), 853_018),
    (lambda: CIFARResNet(110), 1_727_962),
    (lambda: CIFARResNet(110, shortcut="B"), 1_727_962 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
    (CIFARViT, 6_268_810),
    (lambda: ResNetGenerator(3, 3), 11_378_179),
    (lambda: PatchDiscriminator(3), 2_764_737),
    (lambda: DenseNetBC(100, growth=12), 769_162),
    (lambda: DenseNetBC(250, growth=24), 15_324_406),
    (lambda: DenseNetBC(190, growth=40), 25_624_430),
    (DnCNN, 640 + 15 * (36864 + 128) + 577),  # 9 C 64 + 64, 15 x (9 x 64 x 64 + 2 x 64) and 9 x 64 C + C
    (lambda: DnCNN(3, depth=20, batch_norm=False), 1792 + 18 * (36864 + 64) + 1731),
    (EANet, 20_403_719),
    (lambda: MLP(64, [256, 128], 10), 65 * 256 + 257 * 128 + 129 * 10),
    (lambda: MLP(64, [], 10), 65 * 10),
    (NCSNpp, 62_758_787),
    (lambda: NCSNpp(num_blocks=8), 107_586_947),
    (lambda: NCSNpp(**DDPMPP), 61_804_419),
    (lambda: NCSNpp(**DDPMPP, num_blocks=8), 106_632_579),
    (lambda: Noise2NoiseUNet(1), 698_017),
    (lambda: Noise2NoiseUNet(3), 700_611),
    (lambda: PreActBottleneckResNet(164, 10), 1_703_258),
    (lambda: PreActBottleneckResNet(110, 10), 1_146_842),
    (PreActResNet18, 11_171_274),
    (lambda: RealBasicVSR(SPyNet(None), num_blocks=20), 4_854_534),  # the flow is frozen
    (lambda: RealBasicVSR(SPyNet(None), num_blocks=10), 3_377_414),
    (lambda: CIFARStemResNet(18), 11_173_962),
    (lambda: CIFARStemResNet(34), 21_282_122),
    (lambda: CIFARStemResNet(50), 23_520_842),
    (SIDUNet, 7_760_484),
    (UNetDiscriminator, 4_376_897),
    (lambda: VGG(16, 100, False), 14_714_688 + 576_612),  # torchvision's convolutions and a small classifier
    (lambda: VGG(16, 100, True), 14_723_136 + 576_612),
    (lambda: VGG(19, 100, False), 20_024_384 + 576_612),
    (lambda: WideResNet(28, 10), 36_479_194),
    (lambda: WideResNet(16, 8), 10_961_370),
    (lambda: WideResNet(40, 4), 8_949_210),
    (lambda: WideResNet(40, 1), 563_930),
]


@pytest.mark.parametrize(("make", "expected"), NETWORKS, ids=[f"{count:,}" for _, count in NETWORKS])
def test_trainable_parameters_are_as_published(make: Callable[[], nn.Module], expected: int) -> None:
    with torch.device("meta"):
        network = make()
    assert sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) == expected
