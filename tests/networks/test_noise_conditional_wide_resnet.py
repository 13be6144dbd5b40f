import pytest
import torch

from lightning_modules.networks.noise_conditional_wide_resnet import NoiseConditionalWideResNet


def test_layers_are_those_of_wide_residual_networks_with_an_embedding() -> None:
    with torch.device("meta"):
        network = NoiseConditionalWideResNet()
    assert [block.conv1.out_channels for block in network.blocks] == [160] * 4 + [320] * 4 + [640] * 4  # type: ignore[union-attr]
    convolutions = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    blocks = [(16, 160), *[(160, 160)] * 3, (160, 320), *[(320, 320)] * 3, (320, 640), *[(640, 640)] * 3]
    assert convolutions == 9 * (3 * 16 + sum(inside * outside + outside**2 for inside, outside in blocks))


def test_logits_depend_on_the_noise_and_not_on_the_images_scale() -> None:
    torch.manual_seed(0)
    network = NoiseConditionalWideResNet(10, 1, num_classes=4, in_channels=1).double()
    image, sigma = torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    logits = network(image, sigma)
    assert logits.shape == (3, 4)
    torch.testing.assert_close(network(5 * image - 2, sigma), logits)
    assert not torch.allclose(network(image, sigma.flip(0)), logits)
    assert network(torch.zeros(1, 1, 8, 8, dtype=torch.float64), sigma[:1]).isfinite().all()
    logits.square().sum().backward()
    assert all(value.grad is not None for value in network.parameters() if value.requires_grad)
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4.*got 12"):
        NoiseConditionalWideResNet(12)
