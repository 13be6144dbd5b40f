import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks.densenet_bc import DenseNetBC
from tests.networks.compared import rectified, warmed


def functional(state: dict[str, Tensor], x: Tensor, layers: int) -> Tensor:
    def mixed(x: Tensor, norm: str, convolution: str) -> Tensor:
        weight = state[f"{convolution}.weight"][:, :, 0, 0]
        return torch.einsum("oi,bihw->bohw", weight, rectified(state, x, norm))

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for block in (1, 2, 3):
        for name in (f"block{block}.{layer}" for layer in range(layers)):
            y = rectified(state, mixed(x, f"{name}.bn1", f"{name}.conv1"), f"{name}.bn2")
            x = torch.cat([x, F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)], dim=1)
        if block < 3:
            x = mixed(x, f"transition{block}.bn", f"transition{block}.conv")
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    return rectified(state, x, "bn").mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_output_equals_an_independent_computation() -> None:
    network, image = warmed(DenseNetBC(22, growth=4, num_classes=5), 4, 3, 16, 16)
    torch.testing.assert_close(network(image), functional(network.state_dict(), image, layers=3))


def test_the_layers_of_the_detector_have_the_papers_channels_and_resolutions() -> None:
    with torch.device("meta"):
        network, found = DenseNetBC(100), {}
        for name in ("conv1", "transition1", "transition2", "relu"):
            module = network.get_submodule(name)
            module.register_forward_hook(lambda module, args, output, name=name: found.update({name: output.shape[1:]}))
        network(torch.empty(2, 3, 32, 32))
    assert network.num_features == 342
    assert found == {
        **{"conv1": (24, 32, 32), "transition1": (108, 16, 16)},
        **{"transition2": (150, 8, 8), "relu": (342, 8, 8)},
    }
