"""A batch's random numbers follow from its place alone."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.guards import seeding
from callbacks.guards.seeding import SeedEveryBatch

STAGES = ("train", "validation", "test", "predict")


def drawn(seed: int = 0, stage: str = "train", epoch: int = 0, batch: int = 0, loader: int = 0, rank: int = 0) -> Any:
    """Draw by each of a process's own generators."""
    callback = SeedEveryBatch(seed)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(current_epoch=epoch, global_rank=rank, strategy=strategy)
    more = () if stage == "train" else (loader,)
    getattr(callback, f"on_{stage}_batch_start")(trainer, None, None, batch, *more)
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002 - what libraries draw from


def test_the_same_place_draws_the_same_and_any_other_place_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "world_size", lambda: 2)
    places: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        *({"stage": stage} for stage in STAGES[1:]),
        {"stage": "test", "loader": 1},
        {"epoch": 1},
        {"batch": 1},
        {"rank": 1},
    ]
    draws = [drawn(**place) for place in places]
    assert draws == [drawn(**place) for place in places]
    for generator in zip(*draws, strict=True):
        assert len(set(generator)) == len(places)
