"""Speed of PGD relative to torchattacks, with the same budget, number of steps and network."""

import time
from collections.abc import Callable

import pytest
import torch

from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.robustness.attacks.ascent import PGD
from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.peers import peer

pytestmark = pytest.mark.benchmark


def test_ten_steps_beside_torchattacks(report: Callable[[str, float, str], None]) -> None:
    torchattacks, name = peer("torchattacks", "torchattacks")
    network = CIFARResNet(20).eval()
    image = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(image)
    label = logits.argmax(dim=1)  # all images are classified correctly at the start, so that both do the same work
    ours = PGD("linf", 8 / 255, steps=10, step_size=2 / 255)
    theirs = torchattacks.PGD(network, eps=8 / 255, alpha=2 / 255, steps=10)
    ratio = paired_ratio(
        lambda: ours.perturb(network, image, label, logits=logits), lambda: theirs(image, label), 5, time.process_time
    )
    what = "PGD-10, which keeps the worst image of its path and so looks at the last, too, ResNet-20"
    report(f"CPU time of {what}, over {name}", ratio, "<= 1.1")
    assert ratio <= 1.1
