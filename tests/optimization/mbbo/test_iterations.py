"""Complete iterations of the module, compared with the algorithm written as loops over blocks, with autograd.

Only the batches come from the package. The variables of all blocks are kept for the current and the previous iterate.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from datamodules.loading import Loading
from datamodules.tables.tables import Tables
from lightning_modules.optimization.mbbo import BSVRB
from lightning_modules.optimization.mbbo.blocks import BlockRates
from lightning_modules.optimization.mbbo.reweighting import Batch, WeightedRows
from tests.optimization.mbbo.test_module import SMALL, table
from tests.trainers import quiet

VARIANTS = pytest.mark.parametrize("variant", ["v1", "v2"])
RIDGE = SMALL["ridge"]
State = dict[str, list[Tensor]]


def lower(x: Tensor, w: Tensor, batch: Batch, row: int) -> Tensor:
    """Compute g_i on a batch."""
    z, a, place = (each[row] for each in batch.training)
    return (torch.sigmoid(x[place]) * F.softplus(-a * (z @ w))).mean() + RIDGE / 2 * w @ w


def upper(w: Tensor, batch: Batch, row: int) -> Tensor:
    """Compute f_i on a batch."""
    z, a, _ = (each[row] for each in batch.trusted)
    return F.softplus(-a * (z @ w)).mean()


def derivatives(x: Tensor, w: Tensor, batch: Batch, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute grad_y g, grad^2_yy g, grad_y f and grad^2_xy g of a block."""

    def slope(x: Tensor) -> Tensor:
        return jacobian(lambda w: lower(x, w, batch, row), w, create_graph=True)

    return (
        slope(x).detach(),
        hessian(lambda w: lower(x, w, batch, row), w),
        jacobian(lambda w: upper(w, batch, row), w),
        jacobian(slope, x).T,
    )


class Algorithm:
    """The state of the paper's algorithm; (x, y, H or v) are kept for iterates t and t - 1."""

    def __init__(self, module: BSVRB, start: Batch) -> None:
        self.rates, self.variant = module.rates, module.blocks.variant
        count, dim = module.blocks.y.shape
        self.x = torch.zeros(len(module.x), dtype=torch.float64)
        self.y = torch.zeros(count, dim, dtype=torch.float64)
        self.v, self.visited, total = torch.zeros_like(self.y), [-1] * count, torch.zeros_like(self.x)
        self.s, self.u, curved = torch.zeros_like(self.y), torch.zeros_like(self.y), []
        for i in range(count):
            self.s[i], h, judged, cross = derivatives(self.x, self.y[i], start, i)
            self.u[i] = h @ self.v[i] - judged
            curved.append(h)
            total -= cross @ (torch.linalg.solve(h, judged) if self.variant == "v1" else self.v[i])
        self.hessian, self.z = torch.stack(curved), total / count
        self.before = {name: getattr(self, name).clone() for name in ("x", "y", "v", "hessian")}

    def iterate(self, number: int, sampled: list[int], batch: Batch) -> None:
        rates, past = self.rates, self.before
        new = {name: getattr(self, name).clone() for name in past}
        now, before = torch.zeros_like(self.x), torch.zeros_like(self.x)

        def followed(tracked: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
            return (1 - rates.alpha) * tracked + rates.alpha * h + rates.gamma * (h - h_before)

        for row, i in enumerate(sampled):
            slope, h, judged, cross = derivatives(self.x, self.y[i], batch, row)
            slope_, h_, judged_, cross_ = derivatives(past["x"], past["y"][i], batch, row)
            missed = number - self.visited[i]
            self.visited[i] = number
            self.s[i] = followed(self.s[i], slope, slope_)
            if self.variant == "v1":
                v, v_ = torch.linalg.solve(self.hessian[i], judged), torch.linalg.solve(past["hessian"][i], judged_)
                values, vectors = torch.linalg.eigh(followed(self.hessian[i], h, h_))
                new["hessian"][i] = vectors @ values.clamp(min=RIDGE).diag() @ vectors.T
            else:
                v, v_ = self.v[i], past["v"][i]
                self.u[i] = followed(self.u[i], h @ v - judged, h_ @ v_ - judged_)
                moved = v - rates.tau_v * missed * self.u[i]
                new["v"][i] = moved * min(1.0, rates.radius / float(moved.norm()))
            new["y"][i] = self.y[i] - rates.tau * missed * self.s[i]
            now -= cross @ v / len(sampled)
            before -= cross_ @ v_ / len(sampled)
        self.z = (1 - rates.beta) * (self.z - before) + now
        new["x"] = self.x - rates.eta * self.z
        self.before = {name: getattr(self, name) for name in new}
        vars(self).update(new)


def recorded(
    variant: Any, steps: int = 1, sampled: int = 2, **rates: Any
) -> tuple[BSVRB, list[Any], list[dict[str, Tensor]]]:
    """Train; return the module, its batches (for the start and each iteration), and its states after each of them."""
    settings = {**SMALL, "samples": 40, "blocks": 4, "sampled_blocks": sampled, "batch_size": 5, "spread": 2.0}
    rates |= {"eta": 3.0, "tau_v": 0.7} if variant == "v2" else {"eta": 3.0}
    module = BSVRB(**{**settings, "iterations_per_step": 1, "variant": variant, "rates": BlockRates(**rates)})
    batches: list[Any] = []
    states: list[dict[str, Tensor]] = []
    begin, move = module.blocks.begin, module.blocks.move

    def begun(problem: Any, x: Tensor, batch: Any, mu: float) -> Tensor:
        batches.append(batch)
        return begin(problem, x, batch, mu)

    def moved(problem: Any, x: Tensor, x_before: Tensor, rows: Tensor, batch: Any, number: int, *settings: Any) -> Any:
        states.append({name: each.clone() for name, each in module.state_dict().items()})
        batches.append((number, rows.tolist(), batch))
        return move(problem, x, x_before, rows, batch, number, *settings)

    module.blocks.begin, module.blocks.move = begun, moved  # type: ignore[method-assign]
    source = table()
    source.train_size, source.trusted_size = 40, 20
    quiet(max_epochs=1, precision="64-true").fit(
        module, datamodule=Tables(source, loading=Loading(passes_per_epoch=steps))
    )
    states.append(module.state_dict())
    return module, batches, states[1:]


@VARIANTS
@pytest.mark.parametrize("sampled", [2, 4])
def test_each_iteration_is_the_algorithms(variant: Any, sampled: int) -> None:
    module, (start, *batches), states = recorded(variant, 8, sampled, gamma=0.8, alpha=0.6)
    told = Algorithm(module, start)
    names = {"blocks.y": "y", "blocks.s": "s", "x": "x", "z": "z"}
    names |= {"blocks.hessian": "hessian"} if variant == "v1" else {"blocks.v": "v", "blocks.u": "u"}
    assert len(batches) == len(states) == 8
    for (number, rows, batch), state in zip(batches, states, strict=True):
        told.iterate(number, rows, batch)
        for name, own in names.items():
            torch.testing.assert_close(state[name], getattr(told, own), rtol=0, atol=1e-12, msg=f"{name} of {number}")


@VARIANTS
def test_with_all_blocks_storm_without_noise_has_the_exact_derivatives(
    variant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With I = m and gamma = 1 - alpha, trackers are STORM's; with all samples in each batch, they start exactly."""
    batch = WeightedRows.batch

    def everything(self: WeightedRows, training: Tensor, trusted: Tensor, temperature: Tensor) -> Batch:
        return batch(self, *(torch.arange(n).expand(len(temperature), -1) for n in (40, 20)), temperature)

    monkeypatch.setattr(WeightedRows, "batch", everything)
    _, (_, *batches), states = recorded(variant, 5, 4, alpha=0.3, gamma=0.7, beta=0.2)
    for (_, rows, whole), now, after in zip(batches[1:], states, states[1:], strict=False):
        x, total = now["x"], torch.zeros_like(now["x"])
        for row, i in enumerate(rows):
            slope, h, judged, cross = derivatives(x, now["blocks.y"][i], whole, row)
            torch.testing.assert_close(after["blocks.s"][i], slope, rtol=0, atol=1e-13)
            if variant == "v1":
                torch.testing.assert_close(after["blocks.hessian"][i], h, rtol=0, atol=1e-13)
                v = torch.linalg.solve(now["blocks.hessian"][i], judged)
            else:
                v = now["blocks.v"][i]
                torch.testing.assert_close(after["blocks.u"][i], h @ v - judged, rtol=0, atol=1e-13)
            total -= cross @ v / len(rows)
        torch.testing.assert_close(after["z"], total, rtol=0, atol=1e-12)
