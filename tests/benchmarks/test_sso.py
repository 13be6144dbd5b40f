"""Cost of SSO in `fit`, relative to the network passes that it makes."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from datamodules.loading import Loading
from datamodules.tables.table_set import Rows, TableSet
from datamodules.tables.tables import Tables
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.sso import SSO, ScheduledStep
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
BATCH = 625


class Noise(TableSet):
    """Rows of noise with the size of MNIST's images."""

    seed = 0

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"features": (784,), "target": ()}

    def training(self) -> Rows:
        features = torch.randn(4 * BATCH, 784, generator=torch.Generator().manual_seed(0))
        return Rows({"features": features, "target": torch.arange(4 * BATCH) % 10})

    test = training


def test_sso_against_its_passes(report: Report) -> None:
    torch.manual_seed(0)
    module = SSO(MLP(784, [512, 256], 10), nn.CrossEntropyLoss(reduction="sum"), ScheduledStep(1.0))
    start = {name: each.clone() for name, each in module.state_dict().items()}
    data = Tables(Noise(), batch_size=BATCH, loading=Loading(passes_per_epoch=3))
    trainers = iter([quiet(max_epochs=1) for _ in range(5)])
    x, parameters, passes = torch.randn(BATCH, 784), list(module.network.parameters()), Counter[bool]()

    def fit() -> None:
        module.load_state_dict(start)
        module.course = []
        next(trainers).fit(module, datamodule=data)

    def plain() -> None:
        for _ in range(passes[True]):
            torch.autograd.grad(module.network(x).square().mean(), parameters)
        with torch.no_grad():
            for _ in range(passes[False]):
                module.network(x)

    counted = module.network.register_forward_hook(
        lambda layer, inputs, outputs: passes.update([outputs.requires_grad] * (len(outputs) // BATCH))
    )
    fit()
    counted.remove()
    assert passes[True] >= 120
    ratio = paired_ratio(fit, plain, rounds=3, clock=time.process_time)
    report("SSO through fit against the passes that it makes", ratio, "<= 1.1")
    assert ratio <= 1.1
