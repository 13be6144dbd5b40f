import pytest
import torch

from lightning_modules.networks.dncnn import DnCNN


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # 9 C 64 + 64, 15 x (9 x 64 x 64 + 2 x 64) and 9 x 64 C + C
        (DnCNN(), 640 + 15 * (36864 + 128) + 577),
        (DnCNN(3, depth=20, batch_norm=False), 1792 + 18 * (36864 + 64) + 1731),
    ],
)
def test_parameters(network: DnCNN, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_noise_is_subtracted_and_the_reach_is_the_depth() -> None:
    network = DnCNN(depth=3, features=4).eval()
    image = torch.rand(1, 1, 15, 15, requires_grad=True)
    torch.testing.assert_close(network(image) + network.noise(image), image)
    [gradient] = torch.autograd.grad(network(image)[0, 0, 7, 7], image)
    touched = gradient[0, 0].nonzero() - 7
    assert touched.abs().max() == 3
