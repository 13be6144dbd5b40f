import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backbones import Normalized
from lightning_modules.networks.preact_resnet import PreActResNet18
from tests.networks.compared import rectified


def functional(state: dict[str, Tensor], x: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    x = rectified(state, F.conv2d(x, state["conv1.weight"], padding=1), "bn1", training)
    for stage in (1, 2, 3, 4):
        for i in (0, 1):
            block = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            a = rectified(state, x, f"{block}.bn1", training)
            s = F.conv2d(a, state[f"{block}.shortcut.0.weight"], stride=stride) if stride == 2 else a
            h = F.conv2d(a, state[f"{block}.conv1.weight"], stride=stride, padding=1)
            x = s + F.conv2d(rectified(state, h, f"{block}.bn2", training), state[f"{block}.conv2.weight"], padding=1)
    features = x.mean(dim=(2, 3))
    return features, features @ state["linear.weight"].T + state["linear.bias"]


def test_output_equals_an_independent_computation() -> None:
    network = PreActResNet18().double().train()
    image = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    logits = network(image)
    torch.testing.assert_close(logits, functional(network.state_dict(), image, training=True)[1])
    network.eval()
    features, logits = functional(network.state_dict(), image, training=False)
    torch.testing.assert_close(network.forward_features(image), features)
    torch.testing.assert_close(network(image), logits)


def test_features_can_be_negative_because_nothing_is_rectified_before_the_pooling() -> None:
    assert PreActResNet18().forward_features(torch.randn(8, 3, 16, 16)).min() < 0


def test_features_and_the_second_stage_can_be_watched_through_the_normalisation() -> None:
    with torch.device("meta"):
        network = Normalized(PreActResNet18(num_classes=100), [0.5] * 3, [0.25] * 3)
        watched: list[Tensor] = []
        network.network.layer2.register_forward_hook(lambda module, args, output: watched.append(output))
        image = torch.rand(2, 3, 32, 32)
        network(image).sum().backward()
        assert network.forward_features(image).shape == (2, 512)
    assert watched[0].shape == (2, 128, 16, 16)
