"""The random numbers of a batch depend only on its position."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.guards import seeding
from callbacks.guards.seeding import SeedEveryBatch
from datamodules.randomness.generators import bits_of

STAGES = ("train", "validation", "test", "predict")


def drawn(seed: int = 0, stage: str = "train", epoch: int = 0, batch: int = 0, loader: int = 0, rank: int = 0) -> Any:
    """Draw from each of the process's generators."""
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


@pytest.mark.parametrize("words", [(0,), (0, 0, 1), (3, 2**32 - 1), (3, 2**32), (2**63, 0, 5), (True, False, 7)])
def test_words_of_any_size_give_the_bits_that_numpy_draws_from_them(words: tuple[int, ...]) -> None:
    assert bits_of(*words) == int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def test_one_process_seeds_its_generators_from_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    monkeypatch.setattr(seeding, "seed_of", lambda *words: drawn.append(words) or 5)
    trainer = SimpleNamespace(current_epoch=2, global_rank=1, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    for processes, numbers in ((1, [0]), (2, [0, 2])):
        monkeypatch.setattr(seeding, "world_size", lambda processes=processes: processes)
        drawn.clear()
        SeedEveryBatch(seed=9)._seed(trainer, {}, 0, 4)  # type: ignore[arg-type]
        assert drawn == [(9, 0, 2, 4, 0, number) for number in numbers]
