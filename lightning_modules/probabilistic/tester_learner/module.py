"""The LightningModule that learns a halfspace and tests the assumptions about the distribution of the points."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.batches import TableBatch, global_batch_size, loss_weight
from datamodules.distributed.collectives import all_reduce_sum, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import Table, ValidationSource, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.probabilistic.tester_learner.marginal_tests import MOST_DIMENSIONS, joint_thresholds
from lightning_modules.probabilistic.tester_learner.suites import Target, simulate_statistics, suite_of
from lightning_modules.probabilistic.tester_learner.surrogates import (
    SURROGATES,
    sampling_error,
    summed_gradients,
    surrogate_loss,
)
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same, log_training


def in_visiting_order(local: Tensor, count: int) -> Tensor:
    """Gather the rows of a global batch from all ranks, in the order in which a single process would load them.

    Args:
        local: rows on this rank, `[b, ...]`.
        count: total number of rows on all ranks.
    """
    processes = world_size()
    if processes == 1:
        return local
    place = torch.cat([torch.arange(rank, count, processes) for rank in range(processes)])
    return gather_rows(local, share_sizes(count))[place.argsort().to(local.device)]


class TesterLearner(MethodModule):
    """Learn a halfspace on training rows, and accept or reject it on validation rows.

    Training supports one or several ranks. Each training step splits the global batch into mini-batches, takes one
    descent step on each mini-batch, and stores the last iterate as a candidate. Validation selects one candidate and
    tests it.

    Args:
        dim: dimension d of the points.
        eta: upper bound on the flip probability of a label, in [0, 1/2).
        sigma: width of the surrogate and of the bands in the tests.
        surrogate: surrogate loss, `ramp` or `logistic`; `logistic` is the surrogate of Diakonikolas et al., whose
            learner has no tests.
        tests: True selects the tests for Massart noise, and `strips` selects the tests for adversarial label noise.
            `moments` is a baseline that compares the moments of all points with the target and ignores the labels.
            False accepts every candidate without a test.
        target: distribution that the tests accept: `normal` is N(0, I); `ball` is N(0, I), restricted to the ball of
            radius sqrt(d) and scaled to covariance I (strongly log-concave), and requires that `tests` is a bool.
        degree: maximum degree of the moments in the bands, 2 or 4.
        delta: probability that points from the target are rejected.
        draws: number of simulated samples from which the thresholds are computed.
        beta: step size of the descent.
        rows_per_iteration: number of rows in each mini-batch.
    """

    halfspace: Tensor
    accepted: Tensor
    statistics: Tensor
    thresholds: Tensor

    def __init__(
        self,
        dim: int,
        eta: float = 0.3,
        sigma: float = 0.4,
        surrogate: Literal["ramp", "logistic"] = "ramp",
        tests: bool | Literal["strips", "moments"] = True,
        target: Target = "normal",
        degree: Literal[2, 4] = 4,
        delta: float = 0.05,
        draws: int = 200,
        beta: float = 0.02,
        rows_per_iteration: int = 64,
    ) -> None:
        super().__init__()
        at_least(2, dim=dim)
        within(0, 0.5, "[)", eta=eta)
        positive(sigma=sigma, beta=beta)
        one_of(SURROGATES, surrogate=surrogate)
        one_of((True, False, "strips", "moments"), tests=tests)
        one_of(("normal", "ball"), target=target)
        one_of((2, 4), degree=degree)
        if degree == 4 and dim > MOST_DIMENSIONS:
            raise ValueError(f"dim must be at most {MOST_DIMENSIONS} for moments of degree 4, got {dim}: use degree 2")
        within(0, 1, "()", delta=delta)
        at_least(math.ceil(1 / delta), draws=draws)
        at_least(1, rows_per_iteration=rows_per_iteration)
        only_with("tests true", bool(tests), TesterLearner, delta=delta, draws=draws)
        self.automatic_optimization = False
        self.dim = dim
        self.eta = eta
        self.sigma = sigma
        self.surrogate = SURROGATES[surrogate]
        self.tests = tests
        self.degree = degree
        self.delta = delta
        self.draws = draws
        self.beta = beta
        self.rows_per_iteration = rows_per_iteration
        first = torch.eye(dim, dtype=torch.float64)[0]
        self.weight = nn.Parameter(first)
        self.suite = suite_of(tests, sigma, degree, target)
        self.names = ["gradient", *self.suite.names]
        self.register_buffer("halfspace", first.clone())
        self.register_buffer("accepted", torch.zeros((), dtype=torch.float64))
        self.register_buffer("statistics", torch.full((len(self.names),), math.inf, dtype=torch.float64))
        self.register_buffer("thresholds", torch.zeros(len(self.names), dtype=torch.float64))
        self.candidates: list[Tensor] = []
        self.norms_and_errors = torch.zeros(0, 3)
        self.held_out: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "TesterLearner")
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                raise ValueError(
                    f"trainer.callbacks must not have {type(callback).__name__} for TesterLearner, "
                    f"which selects one candidate and does not support averaged weights"
                )

    def on_train_start(self) -> None:
        if (data := data_with(self.trainer, ValidationSource)) and data.validation_set is None:
            raise ValueError("TesterLearner needs validation rows for its tests: give data.table validation rows")

    def forward(self, features: Tensor) -> Tensor:
        """Return the signed distance, `[B]`, of rows `[B, d]` from the boundary of the selected halfspace.

        The distance is also returned if the halfspace was rejected.
        """
        return features @ self.halfspace

    @torch.no_grad()
    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        own = batch["features"], batch["target"]
        whole = (in_visiting_order(rows, batch["global_batch_size"]).split(self.rows_per_iteration) for rows in own)
        parts = list(zip(*whole, strict=True))
        following = iter(parts)
        iterate(self, len(parts), lambda: self._iteration(*next(following)))
        self.candidates.append(self.weight.detach().clone())
        return {"loss": log_training(self, batch, surrogate_loss(*own, self.weight, self.surrogate, self.sigma))}

    def _iteration(self, features: Tensor, target: Tensor) -> None:
        [gradient] = summed_gradients(features, target, self.weight[None], self.surrogate, self.sigma)
        moved = self.weight - self.beta / len(features) * gradient
        self.weight.copy_(moved / moved.norm())

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        self.held_out.append((batch["features"], batch["target"]))

    def on_validation_epoch_end(self) -> None:
        """Select a candidate with the validation rows of all ranks, and test it."""
        features, target = (torch.cat(rows) for rows in zip(*self.held_out, strict=True))
        self.held_out = []
        candidates = torch.stack(self.candidates or [self.weight.detach()]).to(features)
        samples = int(all_reduce_sum(features.new_tensor(len(features))))
        gradients = summed_gradients(features, target, candidates, self.surrogate, self.sigma)
        signed = target * (candidates @ features.T)
        wrong = all_reduce_sum(torch.stack([(signed <= 0).sum(1), (signed >= 0).sum(1)], dim=1)) / samples
        norms = (all_reduce_sum(gradients) / samples).norm(dim=1)
        self.norms_and_errors = torch.cat([norms[:, None], wrong], dim=1)
        chosen = norms.argmin()
        opposite = wrong[chosen, 1] < wrong[chosen, 0]
        self.halfspace.copy_(candidates[chosen] * torch.where(opposite, -1.0, 1.0))
        self._test(features, samples, norms[chosen])
        error, other = wrong[chosen].sort().values
        log_same(self, "val/error", error)
        log_same(self, "val/error_of_opposite", other)
        log_same(self, "val/accepted", self.accepted)
        for name, value in zip(self.names, self.statistics, strict=True):
            log_same(self, f"val/{name}", value)

    def _test(self, features: Tensor, samples: int, norm: Tensor) -> None:
        """Compare the gradient norm and the statistics of all ranks' points with their thresholds."""
        sums = self.suite.sums(features, self.halfspace)
        found = self.suite.statistics(tuple(map(all_reduce_sum, sums)))
        self.statistics.copy_(torch.cat([norm[None], found]))
        if self.tests:
            by_chance = sampling_error(samples, self.dim, self.surrogate, self.sigma)
            alpha = max(0.1 * (1 - 2 * self.eta), 3 * by_chance) if self.suite.uses_labels else math.inf
            drawn = simulate_statistics(self.suite, samples, self.dim, self.draws)
            limits = torch.minimum(joint_thresholds(drawn, self.delta), self.suite.caps)
            self.thresholds.copy_(torch.cat([torch.tensor([alpha]).to(limits), limits]))
        else:
            self.thresholds.fill_(math.inf)
        self.accepted.copy_((self.statistics <= self.thresholds).all())

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        weight, target = loss_weight(batch), batch["target"]
        found = {"error": (target * self(batch["features"]) <= 0).to(target).mean()}
        if "clean_target" in batch:
            found["error_of_truth"] = (target != batch["clean_target"]).to(target).mean()
            found["excess_error"] = found["error"] - found["error_of_truth"]
        for name, value in found.items():
            self.log(f"test/{name}", weight * value, on_epoch=True, batch_size=global_batch_size(batch), sync_dist=True)
        if "w_true" in batch:
            cosine = (self.halfspace @ batch["w_true"]).clamp(-1, 1)
            log_same(self, "test/angle", cosine.acos().rad2deg())

    def on_test_epoch_end(self) -> None:
        log_same(self, "test/accepted", self.accepted)

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return a table of the test results and a table of the candidates.

        For each candidate w, the second table contains the gradient norm and the errors of w and -w.
        """
        if not len(self.norms_and_errors):
            return {}
        ratio = {"value / threshold": (self.statistics / self.thresholds).tolist()}
        limits, values = self.thresholds.tolist(), self.statistics.tolist()
        report = {"statistic": self.names, "test": range(len(values)), "value": values, "threshold": limits}
        norm, error, other = self.norms_and_errors.T.tolist()
        columns = {"candidate": range(1, len(norm) + 1), "gradient": norm, "error": error, "error of -w": other}
        return {"report": Table(report, ratio), "candidates": Table(columns)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["candidates"] = [each.cpu() for each in self.candidates]
        checkpoint["norms_and_errors"] = self.norms_and_errors.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.candidates = checkpoint["candidates"]
        self.norms_and_errors = checkpoint["norms_and_errors"]

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(self.parameters())
