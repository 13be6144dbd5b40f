"""VGG for small images: its size and its layers, compared with an independent computation."""

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.networks.vgg import CONVOLUTIONS, VGG


@pytest.mark.parametrize("batch_norm", [False, True])
def test_output_equals_an_independent_computation(batch_norm: bool) -> None:
    torch.manual_seed(0)
    network = VGG(11, 7, batch_norm, in_channels=1).double().eval()
    image = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    x, place, state = image, 0, network.state_dict()
    for convolutions in CONVOLUTIONS[11]:
        for _ in range(convolutions):
            x = F.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
            x = x / (1 + 1e-5) ** 0.5 if batch_norm else x
            x, place = x.clamp(min=0), place + 2 + batch_norm
        x, place = F.max_pool2d(x, 2), place + 1
    x = x[:, :, 0, 0]
    for layer in ("classifier.1", "classifier.4"):
        x = (x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).clamp(min=0)
    torch.testing.assert_close(network(image), x @ state["linear.weight"].T + state["linear.bias"])
    assert not network.train()(image).equal(network(image))  # dropout
