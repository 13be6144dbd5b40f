"""The senders for each node are drawn uniformly; messages and their aggregation are tested with the module."""

import torch

from datamodules.randomness.generators import generator_of
from lightning_modules.optimization.monna.exchange import responders


def test_each_node_hears_itself_last_and_others_once() -> None:
    heard = responders(7, 4, generator_of(0, 3, 1))
    assert heard.shape == (7, 5)
    assert heard[:, -1].tolist() == list(range(7))
    for own, row in enumerate(heard.tolist()):
        assert len(set(row)) == 5
        assert own not in row[:-1]


def test_others_are_drawn_uniformly() -> None:
    random, draws = torch.Generator().manual_seed(0), 4000
    counts = torch.zeros(5, 5)
    for _ in range(draws):
        counts.scatter_add_(1, responders(5, 2, random)[:, :-1], torch.ones(5, 2))
    expected = draws * 2 / 4
    off_diagonal = counts[~torch.eye(5, dtype=torch.bool)]
    assert counts.diagonal().sum() == 0
    assert (off_diagonal - expected).abs().max() < 5 * (draws * 0.25) ** 0.5


def test_all_are_heard_where_all_respond() -> None:
    assert responders(4, 3, torch.Generator().manual_seed(0)).sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 4
