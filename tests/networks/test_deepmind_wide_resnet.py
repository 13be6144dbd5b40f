import torch
import torch.nn.functional as F

from lightning_modules.networks.deepmind_wide_resnet import DeepMindWideBlock, DeepMindWideResNet
from tests.networks.compared import count


def test_the_robust_networks_of_the_literature_have_their_sizes_and_names() -> None:
    with torch.device("meta"):
        network = DeepMindWideResNet(70, 16, 10)
        first = network.layer[0](network.init_conv(torch.empty(2, 3, 32, 32)))
        second = network.layer[1](first)
        logits = network(torch.empty(2, 3, 32, 32))
    assert (first.shape[1:], second.shape[1:], logits.shape) == ((256, 32, 32), (512, 16, 16), (2, 10))
    assert count(network) == 266_796_506
    names = set(network.state_dict())
    assert len(network.layer[2].block) == 11
    for name in (
        "init_conv.weight",
        "layer.0.block.0.batchnorm_0.running_mean",
        "layer.0.block.0.shortcut.weight",
        "layer.2.block.10.conv_1.weight",
        "batchnorm.weight",
        "logits.bias",
    ):
        assert name in names
    assert "layer.0.block.1.shortcut.weight" not in names


def test_a_strided_convolution_pads_below_and_to_the_right() -> None:
    block = DeepMindWideBlock(2, 3, stride=2, activation=torch.nn.SiLU).double().eval()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    activation = F.silu(block.batchnorm_0(x))
    padded = torch.zeros(2, 2, 9, 9, dtype=torch.float64)
    padded[:, :, :8, :8] = activation
    residual = F.conv2d(padded, block.conv_0.weight, stride=2)
    residual = block.conv_1(F.silu(block.batchnorm_1(residual)))
    expected = residual + F.conv2d(activation, block.shortcut.weight, stride=2)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(block(x), expected)
