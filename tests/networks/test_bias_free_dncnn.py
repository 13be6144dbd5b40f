import torch

from lightning_modules.networks.bias_free_dncnn import BiasFreeDnCNN


def test_numbers_are_those_of_the_authors_weights() -> None:
    with torch.device("meta"):
        state = BiasFreeDnCNN().state_dict()
    assert sum(value.numel() for value in state.values()) == 669_312
    assert {"conv_layers.19.weight", "gammas.17", "running_sd.17"} <= state.keys()


def test_the_estimate_grows_with_the_image() -> None:
    torch.manual_seed(0)
    network = BiasFreeDnCNN(2, depth=5, features=8).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    image = torch.randn(2, 2, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(network(3.7 * image), 3.7 * network(image), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(network(-image), -network(image))  # the units are not linear


def test_training_divides_by_the_batchs_deviation_and_keeps_its_average() -> None:
    torch.manual_seed(0)
    network = BiasFreeDnCNN(1, depth=3, features=4).double()
    image = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    inner = network.conv_layers[1](network.conv_layers[0](image).relu())
    deviation = (inner.pow(2).mean(dim=(0, 2, 3)) - inner.mean(dim=(0, 2, 3)).pow(2) + 1e-5).sqrt()
    x = (inner / deviation[:, None, None] * network.gammas[0]).relu()
    torch.testing.assert_close(network(image), image - network.conv_layers[2](x))
    running = network.running_sd.state_dict()["0"].flatten()
    torch.testing.assert_close(running, 0.9 + 0.1 * deviation.detach())
    network.eval()
    x = (inner / running[:, None, None] * network.gammas[0]).relu()
    torch.testing.assert_close(network(image), image - network.conv_layers[2](x))
