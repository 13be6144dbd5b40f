"""The LightningModule that trains the network on full batches, compares it with the kernel limit, and draws samples."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.batches import TableBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.generators import drawing, generator_of
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, TrainingRows, require_data
from lightning_modules.linear_algebra import project_onto_ball
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.wasserstein import MOST_POINTS, wasserstein
from lightning_modules.optim.optimizers import constant, with_schedule
from lightning_modules.probabilistic.score_estimation.kernel_path import KernelPath, relu_tangent_kernel, stopping_step
from lightning_modules.probabilistic.score_estimation.network import FrozenSignNetwork
from lightning_modules.sde.processes import VP
from lightning_modules.sde.samplers import euler_maruyama
from lightning_modules.training.logging import log_same, log_training
from lightning_modules.training.requirements import require_all_rows

STEPS = torch.cat([torch.arange(100), torch.logspace(2, 7, 101, dtype=torch.float64).round()]).double()
"""Numbers of steps for which the kernel limit is evaluated."""
MOST_ROWS = 5_000


def rms(difference: Tensor) -> Tensor:
    """Compute the root mean square of the norms of points; the last two dimensions index points and coordinates."""
    return difference.square().sum(-1).mean(-1).sqrt()


class ScoreEstimation(MethodModule):
    """Fit E[X_0 | X_t] by full-batch gradient steps, and compare the trained network with its kernel limit.

    `test` evaluates the network after all training steps, and the kernel limit after the number of steps that `stop`
    chooses.

    Args:
        dim: dimension d of the points.
        width: number m of neurons, even.
        eta: step size for the loss 1/2 sum_j |f - X_0j|^2; None means half of the maximum step size 1 / lambda_max(H).
        stop: method that chooses the number of steps of the kernel limit in the test. `rule` is the stopping rule,
            where sigma^2 is the true variance of the label noise or, if this is unknown, the mean square of the labels.
            `hold_out` minimises the loss on the validation rows. `end` chooses 10^7 steps.
        local_radius: maximum |X_t| of the rows that are used in the regression; for test rows with a larger |X_t|, the
            estimate is 0. None means that all rows are used.
        radius: radius D of the ball onto which estimates of X_0 are projected before scores are computed.
        g: rate g of the diffusion; must equal the rate that is set for the data.
        start: smallest time T_0 of the data, at which sampling ends.
        end: largest time T of the data, at which sampling starts.
        sampling_steps: number of equal sampling steps from `end` to `start`.
    """

    first_weight: Tensor
    steps_taken: Tensor
    held_out_step: Tensor

    def __init__(
        self,
        dim: int = 2,
        width: int = 4096,
        eta: float | None = None,
        stop: Literal["rule", "hold_out", "end"] = "rule",
        local_radius: float | None = None,
        radius: float = 1.0,
        g: float = 1.0,
        start: float = 0.1,
        end: float = 1.0,
        sampling_steps: int = 180,
    ) -> None:
        super().__init__()
        positive(eta=eta, local_radius=local_radius, radius=radius, g=g, start=start)
        within(start, 1, "(]", end=end)
        at_least(1, sampling_steps=sampling_steps)
        one_of(("rule", "hold_out", "end"), stop=stop)
        self.network = FrozenSignNetwork(dim + 2, dim, width)
        self.dim = dim
        self.eta = eta
        self.stop = stop
        self.local_radius = math.inf if local_radius is None else local_radius
        self.radius = radius
        self.start = start
        self.end = end
        self.sampling_steps = sampling_steps
        self.process = VP(g, g)
        self.register_buffer("first_weight", self.network.weight.detach().clone())
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.float64))
        self.register_buffer("held_out_step", torch.zeros((), dtype=torch.float64))
        self.validation_rows, self.test_rows = Collected(), Collected()
        self.tables: Mapping[str, Table] = {}

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "ScoreEstimation")
        require_all_rows(self.trainer, "ScoreEstimation")
        rows = require_data(self.trainer, TrainingRows, "ScoreEstimation").training_rows
        if len(rows["features"]) > MOST_ROWS:
            raise ValueError(f"data.table must have at most {MOST_ROWS} training rows, got {len(rows['features'])}")
        last = float(rows["features"][:, self.dim].max()) + self.start
        if last > self.end + 1e-9:
            raise ValueError(f"model.end must be the data's last time, which is {last:.3g} or more, got {self.end}")
        inside = self.inside(rows["features"])
        if not inside.any():
            raise ValueError(f"model.local_radius must include at least one training row, got {self.local_radius:.6g}")
        rows = self.rows = {name: column[inside] for name, column in rows.items() if len(column) == len(inside)}
        self.path = KernelPath(relu_tangent_kernel(rows["features"], rows["features"]), self.eta)

    def inside(self, z: Tensor) -> Tensor:
        """Return a mask, `[B]`, of the rows z that are used in the regression."""
        return z[:, : self.dim].norm(dim=1) <= self.local_radius

    def forward(self, z: Tensor) -> Tensor:
        """Estimate E[X_0 | X_t], `[B, d]`, for rows z = (X_t, t - start, 1)."""
        return self.network(z)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Estimate the score, `[B, d]`, at points `[B, d]` and times `[B]`."""
        z = torch.cat([x, (t - self.start)[:, None], torch.ones_like(t)[:, None]], dim=1)
        mean, deviation = self.process.kernel(project_onto_ball(self(z), self.radius), t)
        return (mean - x) / deviation[:, None].square()

    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        self.steps_taken += 1
        square = (self(batch["features"]) - batch["target"]).square().sum(1)
        loss = 0.5 * (square * self.inside(batch["features"])).mean()
        return {"loss": log_training(self, batch, loss)}

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        columns = [batch["features"], batch["target"], self(batch["features"])]
        self.validation_rows.update(batch["index"], torch.cat(columns, dim=1))

    def on_validation_epoch_end(self) -> None:
        features, target, network = self.validation_rows.compute()[1].split([self.dim + 2, self.dim, self.dim], dim=1)
        self.validation_rows.reset()
        log_same(self, "val/loss", 0.5 * (network - target).square().sum(1).mean())
        if self.held_out_step == 0:  # computed only once, because the kernel limit does not depend on the epoch
            path = self.path.predictions(
                relu_tangent_kernel(features, self.rows["features"]), self.rows["target"], STEPS
            )
            self.held_out_step.copy_(STEPS[(path - target).square().sum((1, 2)).argmin()])

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        truth = batch.get("clean_target", batch["target"])
        columns = [batch["features"], batch["target"], truth, self(batch["features"])]
        self.test_rows.update(batch["index"], torch.cat(columns, dim=1))

    def on_test_epoch_end(self) -> None:
        sizes = [self.dim + 2, self.dim, self.dim, self.dim]
        features, target, truth, network = self.test_rows.compute()[1].split(sizes, dim=1)
        self.test_rows.reset()
        local = self.inside(features)[:, None].to(network)
        network, cross = network * local, relu_tangent_kernel(features, self.rows["features"]) * local
        stop = torch.tensor([self.stopping_step(), float(self.steps_taken)], dtype=torch.float64)
        stopped, alongside = self.path.predictions(cross, self.rows["target"], stop)
        path = self.path.predictions(cross, self.rows["target"], STEPS)
        risk = rms(path - truth).square()
        motion = (self.network.weight - self.first_weight).norm(dim=1).max()
        values = {"stopping_step": stop[0], "largest_motion": motion, "coupling": rms(network - alongside)}
        if "clean_target" in self.rows:
            values["score_error"] = self.score_error(features, network, truth)
        risks = {"risk": rms(network - truth), "kernel_risk": rms(stopped - truth)}
        for name, value in (values | {name: each.square() for name, each in risks.items()}).items():
            log_same(self, f"test/{name}", value)
        log_same(self, "test/least_kernel_risk", risk.min())
        tables = {"risk": Table({"step": STEPS[1:].numpy(), "risk": risk[1:].numpy()}, logarithmic=("step",))}
        if "clean_target" in self.rows:
            tables["error_terms"] = self._error_terms(cross, path, truth)
        generated = self.sample_points(min(len(target), MOST_POINTS), generator_of(run_seed(), 7)).cpu()
        log_same(self, "test/wasserstein", wasserstein(generated, target[: len(generated)]))
        if self.dim == 2:
            points = torch.cat([target[: len(generated)], generated]).numpy()
            laws = ["data"] * len(generated) + ["generated"] * len(generated)
            columns = {"x_1": points[:, 0], "x_2": points[:, 1], "law": laws}
            tables["samples"] = Table(columns, kind="points")
        self.tables = tables

    def score_error(self, features: Tensor, estimate: Tensor, truth: Tensor) -> Tensor:
        """Compute the mean squared distance between the true score and the score that follows from estimates of X_0.

        Args:
            features: rows z, `[B, d + 2]`.
            estimate: estimates of X_0, `[B, d]`, before the projection onto the ball.
            truth: exact values of E[X_0 | X_t], `[B, d]`.
        """
        difference, t = project_onto_ball(estimate, self.radius) - truth, features[:, self.dim] + self.start
        mean, deviation = self.process.kernel(difference, t)
        return (mean / deviation[:, None].square()).square().sum(1).mean()

    def stopping_step(self) -> float:
        """Return the number of steps of the kernel limit that the stopping method `stop` selects."""
        if self.stop == "end":
            return float(STEPS[-1])
        if self.stop == "hold_out":
            return float(self.held_out_step)
        noise = self.rows["target"] - self.rows.get("clean_target", torch.zeros(()))
        sigma = float(noise.square().mean().sqrt())
        return float(stopping_step(self.path.values, float(self.path.eta), sigma, int(STEPS[-1])))

    def _error_terms(self, cross: Tensor, path: Tensor, truth: Tensor) -> Table:
        """Compute the parts of the distance between kernel limit and truth, for all numbers of steps in `STEPS`."""
        clean = self.path.predictions(cross, self.rows["clean_target"], STEPS)
        [interpolant] = self.path.predictions(cross, self.rows["clean_target"], torch.tensor([math.inf]).double())
        terms = {
            "label mismatch": rms(path - clean),
            "early stopping": rms(clean - interpolant),
            "approximation": rms(interpolant - truth).expand(len(STEPS)),
            "all": rms(path - truth),
        }
        columns: dict[str, Any] = {
            "step": STEPS[1:].tolist() * len(terms),
            "distance": torch.cat([values[1:] for values in terms.values()]).tolist(),
            "term": [name for name in terms for _ in STEPS[1:]],
        }
        return Table(columns, logarithmic=("step", "distance"))

    @torch.no_grad()
    def sample_points(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample n points, `[n, d]`, by integrating the reverse-time SDE from t = `end` to t = `start`."""
        draw = drawing(generator)
        x = draw(self.network.weight.new_empty(n, self.dim))
        size = (self.end - self.start) / self.sampling_steps
        for i in range(self.sampling_steps):
            x = euler_maruyama(self.score, x, self.end - i * size, 1 / size, self.process, draw).x
        return x

    def configure_optimizers(self) -> Any:
        rows = require_data(self.trainer, TrainingRows, "ScoreEstimation").training_rows["features"]
        rate = float(self.path.eta) * len(rows)  # because the training loss is a mean over rows
        return with_schedule(torch.optim.SGD([self.network.weight], lr=rate), constant)
