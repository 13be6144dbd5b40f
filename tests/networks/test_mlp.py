import torch

from lightning_modules.networks.mlp import MLP


def test_output_is_the_composition_of_affine_maps_and_relu_on_flattened_images() -> None:
    network = MLP(12, [7, 5], 3).double()
    image = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    a, b, c, d, e, f = network.parameters()
    x = (image.reshape(4, 12) @ a.T + b).clamp(min=0)
    torch.testing.assert_close(network(image), (x @ c.T + d).clamp(min=0) @ e.T + f)


def test_another_activation_stands_between_the_maps() -> None:
    network, image = MLP(4, [3], 2, activation="tanh"), torch.randn(5, 4)
    a, b, c, d = network.parameters()
    torch.testing.assert_close(network(image), (image @ a.T + b).tanh() @ c.T + d)
