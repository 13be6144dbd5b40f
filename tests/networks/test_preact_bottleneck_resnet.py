"""Pre-activation networks with bottlenecks: their size, and their output compared with an independent computation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks.preact_bottleneck_resnet import PreActBottleneckResNet
from tests.networks.compared import rectified, warmed


def functional(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for block in (f"layer{stage}.{i}" for i in range(blocks)):
            stride = 2 if stage > 1 and block.endswith(".0") else 1
            h = F.conv2d(rectified(state, x, f"{block}.bn1"), state[f"{block}.conv1.weight"])
            h = F.conv2d(rectified(state, h, f"{block}.bn2"), state[f"{block}.conv2.weight"], stride=stride, padding=1)
            h = F.conv2d(rectified(state, h, f"{block}.bn3"), state[f"{block}.conv3.weight"])
            if block.endswith(".0"):
                x = F.conv2d(x, state[f"{block}.shortcut.weight"], stride=stride)
            x = x + h
    return rectified(state, x, "bn").mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_output_equals_an_independent_computation() -> None:
    network, image = warmed(PreActBottleneckResNet(20, num_classes=5), 4, 3, 16, 16)
    torch.testing.assert_close(network(image), functional(network.state_dict(), image, blocks=2))
    torch.testing.assert_close(network.linear(network.forward_features(image)), network(image))
