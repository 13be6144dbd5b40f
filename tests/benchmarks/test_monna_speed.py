"""CPU time of a round of MoNNA's demo in `fit`, over a plain loop with a network for each node."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.pairs import medians
from tests.benchmarks.test_fit_overhead import METHODS, Ways

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
HONEST, BYZANTINE = 12, 3


def harm(eta: float, products: np.ndarray, between: np.ndarray) -> float:
    """Compute how far nearest-neighbour averaging moves from the mean if the Byzantine nodes send mean + eta std."""
    own, along, length = products.diagonal()[:-1], products[:-1, -1], products[-1, -1]
    sent = np.sqrt(np.maximum(own - 2 * eta * along + eta**2 * length, 0))
    order = np.concatenate([between, np.repeat(sent[:, None], BYZANTINE, 1)], 1).argsort(1, kind="stable")
    weight = np.bincount(np.minimum(order[:, :HONEST], HONEST).ravel(), minlength=HONEST + 1) / HONEST**2
    weight[-1] *= eta
    return float(weight @ products @ weight)


def a_little_is_enough(models: np.ndarray) -> np.ndarray:
    mean, std = models.mean(0), models.std(0, ddof=1)
    rows = np.concatenate([models - mean, std[None]])
    products = (rows @ rows.T).astype(np.float64)
    square = products.diagonal()[:-1]
    between = np.sqrt(np.maximum(square[:, None] + square - 2 * products[:-1, :-1], 0))
    best, step, x, rises, highest = 0.0, 1.0, 1.0, True, harm(0.0, products, between)
    for _ in range(15):
        value = harm(x, products, between)
        rises = rises and value > highest
        if value > highest:
            highest, best = value, x
        step *= 2 if rises else 0.8
        back = step
        while back > x:
            back /= 2
        x = best + step if rises else x + step if x < best else x - back
    return mean + best * std


def plain_loop(rows: Tensor, label: Tensor, epochs: int) -> None:
    networks = [nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in range(HONEST)]
    nodes = torch.arange(HONEST)[:, None]
    momentum = torch.zeros(HONEST, 2410)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(HONEST * 25):
            models = []
            for network, own, m in zip(networks, batch.view(HONEST, -1), momentum, strict=True):
                network.zero_grad()
                F.cross_entropy(network((rows[own] - 0.305) / 0.376), label[own]).backward()
                with torch.no_grad():
                    gradient = torch.cat([each.grad.flatten() for each in network.parameters()])  # type: ignore[union-attr]
                    m.mul_(0.9).add_(gradient, alpha=0.1)
                    models.append(nn.utils.parameters_to_vector(network.parameters()) - 0.5 * m)
            with torch.no_grad():
                honest = torch.stack(models)
                sent = torch.cat([honest, torch.from_numpy(a_little_is_enough(honest.numpy()))[None]])
                lots = torch.rand(HONEST, HONEST).fill_diagonal_(2).argsort(1)[:, : HONEST - BYZANTINE - 1]
                heard = torch.cat([lots, nodes, torch.full((HONEST, BYZANTINE), HONEST)], 1)
                distance = (honest[:, None] - sent).norm(dim=2).gather(1, heard)
                kept = heard.gather(1, distance.argsort(1)[:, : HONEST - BYZANTINE])
                for network, model in zip(networks, sent[kept].mean(1), strict=True):
                    nn.utils.vector_to_parameters(model, network.parameters())


def test_time_of_a_round(report: Report) -> None:
    ways = Ways(METHODS["MoNNA"])
    columns = ways.rows.columns
    rows, label = columns["image"].flatten(1), columns["label"]

    def plain() -> float:
        start = time.process_time()
        plain_loop(rows, label, ways.epochs)
        return time.process_time() - start

    spent = medians({"plain": plain, "ours": ways.ours}, rounds=9)
    ratio = spent["ours"] / spent["plain"]
    report("CPU time of a round of MoNNA through fit over a plain loop with a network per node", ratio, "<= 1.05")
    assert ratio <= 1.05
