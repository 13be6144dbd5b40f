"""Time of SGD iterations in `fit` divided by that of a plain loop with a torch optimizer."""

import copy
import time
from collections.abc import Callable

import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.tables.signed_images import SignedImages
from datamodules.tables.tables import Tables
from lightning_modules.dynamics.sgd_noise import SGDNoise
from lightning_modules.networks.ntk_mlp import NTKMLP
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
ITERATIONS, B, RATE, ALPHA = 4000, 8, 0.1, 1e-3  # so that no point is fitted and every iteration has a gradient


def test_fit_over_a_plain_loop(report: Callable[[str, float, str], None]) -> None:
    table = SignedImages(Digits(), [0, 2, 4, 6, 8], num_points=512, num_test=10)
    rows, network = table.training().columns, NTKMLP(64, [64, 64])

    def ours() -> None:
        module = SGDNoise(copy.deepcopy(network), RATE / B, ALPHA, B, iterations_per_step=1000, kernel_points=0)
        quiet(max_epochs=1).fit(module, datamodule=Tables(table, loading=Loading(passes_per_epoch=ITERATIONS // 1000)))
        assert int(module.iteration) == ITERATIONS == int(module.changed)

    def theirs() -> None:
        trained = copy.deepcopy(network)
        optimizer = torch.optim.SGD(trained.parameters(), lr=RATE)
        with torch.no_grad():
            initial = trained(rows["features"]).flatten()
        for _ in range(ITERATIONS):
            batch = torch.randperm(512)[:B]
            output = trained(rows["features"][batch]).flatten() - initial[batch]
            optimizer.zero_grad()
            (torch.relu(1 - ALPHA * rows["target"][batch] * output).mean() / ALPHA).backward()
            optimizer.step()

    ratio = paired_ratio(ours, theirs, clock=time.process_time)
    report("CPU time of 4,000 iterations of SGD noise through fit over a plain loop, two layers of 64", ratio, "<= 1.2")
    assert ratio <= 1.2
