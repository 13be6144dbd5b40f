import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks.wide_resnet import WideResNet
from tests.networks.compared import rectified, warmed


def functional(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in (f"layer{stage}.{i}" for i in range(blocks)):
            stride = 2 if stage > 1 and block.endswith(".0") else 1
            a = rectified(state, x, f"{block}.bn1")
            h = F.conv2d(a, state[f"{block}.conv1.weight"], stride=stride, padding=1)
            if block.endswith(".0"):
                x = F.conv2d(a, state[f"{block}.shortcut.weight"], stride=stride)
            x = x + F.conv2d(rectified(state, h, f"{block}.bn2"), state[f"{block}.conv2.weight"], padding=1)
    return rectified(state, x, "bn").mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_output_equals_an_independent_computation() -> None:
    network, image = warmed(WideResNet(16, 2, num_classes=5), 4, 3, 16, 16)
    torch.testing.assert_close(network(image), functional(network.state_dict(), image, blocks=2))
    torch.testing.assert_close(network.linear(network.forward_features(image)), network(image))


def test_dropout_acts_in_training_alone() -> None:
    network = WideResNet(10, 1, dropout=0.5).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(image), network(image), rtol=0, atol=0)
    network.train()
    assert not torch.equal(network(image), network(image))
