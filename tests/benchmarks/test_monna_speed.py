"""Cost of the attack "a little is enough" on MoNNA, relative to recomputing all distances; its growth with nodes."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.monna.aggregation import NearestNeighborAveraging
from lightning_modules.optimization.monna.byzantine import ALittleIsEnough, Round, line_maximum
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


def situation(nodes: int, size: int) -> Round:
    byzantine = nodes // 5
    honest = torch.randn(nodes - byzantine, size, generator=torch.Generator().manual_seed(0))
    return Round(honest, byzantine, NearestNeighborAveraging(), 0)


def by_trials(situation: Round) -> Tensor:
    """Run 16 trials; a trial measures all distances between models, and averages each node's nearest models."""
    honest, byzantine = situation.honest, situation.byzantine
    mean, deviation = honest.mean(dim=0), honest.std(dim=0)

    def harm(eta: Tensor) -> Tensor:
        sent = (mean + eta * deviation).float()
        everything = torch.cat([honest, sent.expand(byzantine, -1)])
        distance = torch.cdist(honest, everything, compute_mode="donot_use_mm_for_euclid_dist")
        chosen = distance.topk(len(honest), largest=False).indices
        return (everything[chosen].mean(dim=1).mean(dim=0) - mean).square().sum()

    return mean + line_maximum(harm, mean) * deviation


def test_inner_products_beside_trials(report: Report) -> None:
    attack, here = ALittleIsEnough(), situation(20, 50_000)
    torch.testing.assert_close(attack(here), by_trials(here).float(), rtol=1e-3, atol=1e-3)
    ratio = paired_ratio(lambda: attack(here), lambda: by_trials(here), 5, time.process_time)
    name = f"16 trials with torch.cdist, torch {torch.__version__.split('+')[0]}"
    report(f"CPU time of 'a little is enough' on MoNNA, 20 nodes of 50,000 parameters, over {name}", ratio, "<= 0.5")
    assert ratio <= 0.5


def test_ten_times_the_nodes(report: Report) -> None:
    attack, few, many = ALittleIsEnough(), situation(10, 10_000), situation(100, 10_000)
    ratio = paired_ratio(lambda: attack(many), lambda: attack(few), 5, time.process_time)
    report("growth: 'a little is enough' on MoNNA, 100 nodes against 10, for 100 times the pairs", ratio, "<= 100")
    assert ratio <= 100
