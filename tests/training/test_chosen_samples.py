"""Positions of training samples are drawn without repetition and depend only on the seed."""

from types import SimpleNamespace

import pytest
import torch

from lightning_modules.training.chosen_samples import drawn_places


def test_places_are_drawn_once_each_and_never_more_than_there_are() -> None:
    data = SimpleNamespace(num_train_samples=50)
    places = drawn_places(data, 20, "it", 3)
    assert len(places.unique()) == 20
    assert torch.equal(places, drawn_places(data, 20, "it", 3))
    assert not torch.equal(places, drawn_places(data, 20, "it", 4))
    assert drawn_places(data, 50, "it", 3).sort().values.tolist() == list(range(50))
    with pytest.raises(ValueError, match=r"samples of it must be in \[1, 50\], got 51"):
        drawn_places(data, 51, "it", 3)
