"""Cost of an imitation round, which provides one gradient, relative to a step on the surrogate for this gradient."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.rollouts.experts import CartPoleLQR
from datamodules.rollouts.rollouts import TRAINING, Rollouts, RolloutSet
from lightning_modules.networks.mlp import MLP
from lightning_modules.optimization.sso import SSO, ScheduledStep
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
M, ROUNDS = 10, 100


def test_a_round_of_states_costs_several_steps_on_the_surrogate(
    report: Callable[[str, float, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = Counter[str]()

    def timed(owner: Any, name: str, key: str, counts: Callable[[Any], bool] = lambda _: True) -> None:
        called = getattr(owner, name)

        def call(self: Any, *arguments: Any) -> Any:
            start = time.process_time()
            found = called(self, *arguments)
            if counts(self):
                spent[key] += time.process_time() - start  # type: ignore[assignment]
            return found

        monkeypatch.setattr(owner, name, call)

    timed(RolloutSet, "__getitem__", "rounds", lambda rounds: rounds.purpose == TRAINING)
    timed(SSO, "_descend", "steps")
    torch.manual_seed(0)
    data = Rollouts("CartPole-v1", CartPoleLQR(), rounds=ROUNDS, samples_per_round=100, environments=4, seed=0)
    module = SSO(MLP(4, [], 1), nn.MSELoss(reduction="sum"), ScheduledStep(1.0), M)
    quiet(max_epochs=1).fit(module, datamodule=data)
    assert module.loss.gradients == ROUNDS
    ratio = M * spent["rounds"] / spent["steps"]
    report("imitation in CartPole: a round of 100 states over a step on the surrogate", ratio, ">= 4")
    assert ratio >= 4
