"""Training and inference cost of NoiSER, relative to the See-in-the-Dark U-Net, which most low-light methods use."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.denoising.noiser import Enhancer, noise_images, squared_variation
from lightning_modules.networks.sid_unet import SIDUNet
from tests.benchmarks.pairs import paired_ratio, seconds

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def step(network: nn.Module, image: torch.Tensor) -> None:
    output = network(image)
    (F.l1_loss(output, image) + squared_variation(output)).backward()


def test_training_and_inference_cost_less_than_those_of_a_u_net(report: Report) -> None:
    ours, theirs = Enhancer(), SIDUNet(channels=3)
    torch.manual_seed(0)
    patch, photograph = torch.rand(1, 3, 104, 104), torch.rand(1, 3, 200, 300)
    training = paired_ratio(lambda: step(ours, patch), lambda: step(theirs, patch), rounds=5, clock=time.process_time)
    with torch.no_grad():
        works = [lambda network=network: network(photograph) for network in (ours, theirs)]
        inference = paired_ratio(*works, rounds=3, clock=time.process_time)
    report("CPU time of a training step of NoiSER over that of the SID U-Net, 104 x 104 pixels", training, "<= 0.2")
    report("CPU time of NoiSER over that of the SID U-Net, 200 x 300 pixels", inference, "<= 0.2")
    assert max(training, inference) <= 0.2


def test_a_whole_training_takes_a_minute(report: Report) -> None:
    """The demo has 2,000 steps, of which 100 are timed."""
    network = Enhancer()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
    blank = torch.zeros(1, 3, 104, 104)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            step(network, noise_images(blank, 0.0, 3.0))
            optimizer.step()

    steps(5)
    whole = 20 * seconds(lambda: steps(100), time.process_time)
    report("CPU minutes of a whole training of NoiSER, 2,000 steps, one thread", whole / 60, "<= 2")
    assert whole <= 120
