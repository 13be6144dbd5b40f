"""Speed of online learners relative to PyNOL on squared losses, with given gradients and with autograd."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.optimization.optimistic_omd import OptimisticEnsemble, OptimisticOMD
from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.peers import peer

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
D, ROUNDS = 10, 1000
RANDOM = np.random.default_rng(0)
FEATURES, TARGET = RANDOM.normal(size=(ROUNDS, D)) / 4, RANDOM.normal(size=ROUNDS) / 4


def ours(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], differentiated: bool) -> None:
    point = nn.Parameter(torch.zeros(D, dtype=torch.float64))
    optimizer = make([point])
    for a, b in zip(torch.from_numpy(FEATURES), TARGET.tolist(), strict=True):
        if differentiated:
            optimizer.zero_grad()
            ((a @ point - b).square() / 2).backward()
        else:
            point.grad = a
        optimizer.step()


class Idle(torch.optim.Optimizer):
    """An optimizer whose steps do nothing."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None: ...


def gradients() -> None:
    point = nn.Parameter(torch.zeros(D, dtype=torch.float64))
    for a, b in zip(torch.from_numpy(FEATURES), TARGET.tolist(), strict=True):
        point.grad = None
        ((a @ point - b).square() / 2).backward()


def theirs(learner: Any, environment: Any, differentiated: bool) -> None:
    for a, b in zip(FEATURES, TARGET, strict=True):
        gradient = {} if differentiated else {"grad": a}
        learner.opt(environment(func=lambda x, a=a, b=b: (x @ a - b) ** 2 / 2, **gradient))


@pytest.mark.parametrize("differentiated", [True, False])
@pytest.mark.parametrize("ensemble", [False, True])
def test_rounds_beside_pynol(ensemble: bool, differentiated: bool, report: Report) -> None:
    """PyNOL's mirror descent has a fixed step size; ours computes it from all gradients and checks their bound."""
    base, name = peer("pynol.learner.base", "pynol-xzp")
    ball = peer("pynol.environment.domain", "pynol-xzp")[0].Ball(D)
    environment = peer("pynol.environment.environment", "pynol-xzp")[0].Environment
    zero = np.zeros(D)
    if ensemble:
        swords = peer("pynol.learner.models.dynamic.swordpp", "pynol-xzp")[0]
        step = lambda parameters: OptimisticEnsemble(parameters, D=2.0, G=4.0, T=ROUNDS, L=0.1)  # noqa: E731
        peers = lambda: swords.SwordPP(ball, ROUNDS, 4.0, 0.1, prior=zero)  # noqa: E731
    else:
        step = lambda parameters: OptimisticOMD(parameters, D=2.0, G=4.0)  # noqa: E731
        peers = lambda: base.OptimisticOGD(ball, 0.1, optimism_type="last_grad", prior=zero)  # noqa: E731
    ratio = paired_ratio(
        lambda: ours(step, differentiated), lambda: theirs(peers(), environment, differentiated), 5, time.process_time
    )
    kind = "the ensemble" if ensemble else "optimistic OMD"
    if differentiated:
        least, what = gradients, "PyTorch's backward passes alone"
    else:
        least, what = (lambda: ours(Idle, False)), "steps of a PyTorch optimizer that does nothing"
    bound = paired_ratio(least, lambda: theirs(peers(), environment, differentiated), 5, time.process_time)
    known = "differentiated" if differentiated else "given"
    met = ensemble and not differentiated
    run = f"CPU time of rounds of {kind}, d = {D}, gradients {known}, over {name}"
    report(run if met else f"{run}: of PyTorch's own calls see the next row", ratio, "<= 1" if met else "-")
    report(f"the same of {what}, which no round is faster than", bound, "-")
    assert ratio <= (1 if met else bound + 6)
