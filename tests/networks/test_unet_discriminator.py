import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.networks.unet_discriminator import UNetDiscriminator


def test_scores_are_those_of_weights_divided_by_their_spectral_norm() -> None:
    torch.manual_seed(0)
    network = UNetDiscriminator(2, 4).double()
    image = torch.rand(2, 2, 16, 24, dtype=torch.float64)
    for _ in range(300):  # each training step makes one power iteration
        network(image)
    state = network.eval().state_dict()

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.parametrizations.weight.original"]
        weight = weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2)
        return F.leaky_relu(F.conv2d(x, weight, stride=stride, padding=1), 0.2)

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    x0 = F.leaky_relu(F.conv2d(image, state["first.weight"], state["first.bias"], padding=1), 0.2)
    x1 = convolved(x0, "down.0", 2)
    x2 = convolved(x1, "down.1", 2)
    x3 = convolved(x2, "down.2", 2)
    x = convolved(doubled(x3), "up.0") + x2
    x = convolved(doubled(x), "up.1") + x1
    x = convolved(doubled(x), "up.2") + x0
    x = convolved(convolved(x, "after.0"), "after.1")
    expected = F.conv2d(x, state["last.weight"], state["last.bias"], padding=1)
    assert expected.shape == (2, 1, 16, 24)
    torch.testing.assert_close(network(image), expected, rtol=1e-6, atol=1e-8)
