"""Training time of a hundred patch networks divided by that of one."""

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from datamodules.loading import Loading
from datamodules.tables.feature_noise import FeatureNoise
from datamodules.tables.tables import Tables
from lightning_modules.dynamics.benign_oscillation import BenignOscillation
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark


def trained(replicas: int) -> None:
    """Train for 4,000 iterations."""
    module = BenignOscillation(replicas, optimizer=partial(torch.optim.SGD, lr=2.8))
    data = Tables(FeatureNoise(num_test=1, num_weak_test=0, replicas=replicas), loading=Loading(passes_per_epoch=25))
    quiet(max_epochs=1, precision="64-true", limit_val_batches=0).fit(module, datamodule=data)


def test_a_hundred_networks_over_one(report: Callable[[str, float, str], None]) -> None:
    ratio = paired_ratio(lambda: trained(100), lambda: trained(1), clock=time.process_time)
    report("CPU time of 4,000 iterations of a hundred patch networks over one, through fit", ratio, "<= 3")
    assert ratio <= 3
