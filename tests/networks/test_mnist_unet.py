import os
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from datamodules.classification.mnist import MNIST
from lightning_modules.backbones import with_weights
from lightning_modules.networks.mnist_unet import MNISTUNet, interleaved_embedding
from lightning_modules.sde.discrete import add_diffusion_noise, run_diffusion_model, scheduler_levels


def test_numbers_are_those_of_the_published_weights() -> None:
    with torch.device("meta"):
        network = MNISTUNet()
    state = network.state_dict()
    assert sum(value.numel() for value in state.values()) == 506_852
    assert {"te_out.2.weight", "b_out.2.ln.weight", "down3.2.bias", "up1.0.weight"} <= state.keys()
    with pytest.raises(ValueError, match=r"\[B, 1, 28, 28\], got \[2, 1, 32, 32\]"):
        MNISTUNet()(torch.zeros(2, 1, 32, 32), torch.zeros(2))


def test_pairs_of_sine_and_cosine_share_a_frequency() -> None:
    time = torch.tensor([0, 3, 999])
    embedding = interleaved_embedding(time, 100).double()
    for column in (0, 2, 98):
        angle = time.double() / 10000 ** (2 * column / 100)
        torch.testing.assert_close(embedding[:, column], angle.sin(), rtol=0, atol=1e-4)
        torch.testing.assert_close(embedding[:, column + 1], angle.cos(), rtol=0, atol=1e-4)


@pytest.mark.data
def test_published_weights_know_the_noise_of_test_digits() -> None:
    root = os.environ.get("NOISEWORKS_DATA")
    weights = Path(root or "", "weights", "ddpm_mnist.safetensors")
    if not root or not weights.exists():
        pytest.skip(f"NOISEWORKS_DATA={root}: expected weights/ddpm_mnist.safetensors and MNIST/raw there")
    network = with_weights(MNISTUNet(), str(weights)).eval()
    abar = scheduler_levels(DDPMScheduler(beta_schedule="linear"))
    image = 2 * MNIST(root).test().image[:200].float() / 255 - 1
    generator = torch.Generator().manual_seed(0)
    for t, error in {50: 0.099, 200: 0.044, 500: 0.016, 800: 0.0033}.items():
        noise = torch.randn(image.shape, generator=generator)
        with torch.inference_mode():
            output = run_diffusion_model(network, add_diffusion_noise(image, noise, float(abar[t])), t)
        assert float((output - noise).square().mean()) == pytest.approx(error, rel=0.1)
