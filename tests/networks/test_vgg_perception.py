from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.models.vgg import cfgs, make_layers

from lightning_modules.networks.vgg_perception import VGGPerception


def test_the_distance_is_that_of_torchvisions_layers_and_moves_the_image_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = make_layers(cfgs["E"])
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    file = tmp_path / "vgg19.safetensors"
    state = {f"features.{key}": value for key, value in layers.state_dict().items()}
    save_file({**state, "classifier.0.weight": torch.zeros(2, 2)}, file)
    perception = VGGPerception(str(file))
    image, clean = (torch.rand(1, 3, 32, 32) for _ in range(2))
    image.requires_grad_()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = [(each - mean[:, None, None]) / std[:, None, None] for each in (image, clean)]
    expected = torch.zeros(())
    for number, weight in ((2, 0.1), (7, 0.1), (16, 1.0), (25, 1.0), (34, 1.0)):
        first, second = (layers[: number + 1](each) for each in normal)
        expected = expected + weight * (first - second).abs().mean()
    distance = perception(image, clean.requires_grad_())
    torch.testing.assert_close(distance, expected)
    gradients = [torch.autograd.grad(each, image, retain_graph=True)[0] for each in (distance, expected)]
    torch.testing.assert_close(*gradients)
    assert torch.autograd.grad(distance, clean, allow_unused=True) == (None,)
    assert float(perception(clean, clean).detach()) == 0


def test_nothing_trains_and_no_file_is_read_without_values() -> None:
    with torch.device("meta"):
        network = VGGPerception("nowhere.safetensors")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert len(network.features) == 35
