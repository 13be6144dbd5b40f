import torch

from lightning_modules.networks.dncnn import DnCNN


def test_the_noise_is_subtracted_and_the_reach_is_the_depth() -> None:
    network = DnCNN(depth=3, features=4).eval()
    image = torch.rand(1, 1, 15, 15, requires_grad=True)
    torch.testing.assert_close(network(image) + network.noise(image), image)
    [gradient] = torch.autograd.grad(network(image)[0, 0, 7, 7], image)
    touched = gradient[0, 0].nonzero() - 7
    assert touched.abs().max() == 3
