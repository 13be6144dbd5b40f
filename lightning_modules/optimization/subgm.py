"""Recover a low-rank matrix from measurements with gross errors by the sub-gradient method (SubGM).

There are m measurements y_i = <A_i, X*> + s_i of a positive semidefinite matrix X*, `[d, d]`. Either some of the
measurements have arbitrarily large errors s_i, or all measurements are noisy. The method estimates X* by U U^T. It
optimises the factor U, `[d, r']`, which may have any number r' of columns; if the rank of X* is unknown, use r' = d.
The objective f and the sub-gradient steps are

    f(U) = (1/m) sum_i |<A_i, U U^T> - y_i|,
    D_t = (1/m) sum_i sign(<A_i, U_t U_t^T> - y_i) (A_i + A_i^T) U_t,    U_{t+1} = U_t - eta_t D_t,    sign(0) = 0,

starting from U_0 = alpha B with a small alpha. Let X = U U^T - X*. For any errors s_i, the sub-gradient D has the
direction of X U / ||X||_F (Sign-RIP). The components of U in the directions of X* therefore grow, while all other
components stay small. For any r', the final error is a power of alpha. The initial matrix B is

    spectral   Q_+ Lambda_+^(1/2), from the r' greatest eigenvalues of (1/m) sum_i sign(y_i) (A_i + A_i^T) / 2; the
               columns of negative eigenvalues are zero and remain zero

    random     the first r' columns of a random orthogonal matrix, none of which is zero

and the step sizes are

    quantile   eta Q, where Q is the q-quantile of |<A_i, U U^T> - y_i| over all measurements; if a fraction p of the
               measurements has gross errors and q < 1 - p, Q decreases together with the error of U U^T

    geometric  eta rho^t, for the case that p or the noise distribution is unknown

    constant   eta; the final distance is then proportional to eta

Only the abstract and the introduction of the paper were available. The spectral initialisation and the step sizes are
reconstructed from the literature. The random initialisation was added by this project. The baseline is gradient descent
on the squared loss (1/2m) sum_i (.)^2, which fails if there are gross errors.

Source: Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small Initialization,
Noisy Measurements, and Over-parameterization, JMLR 2023, arXiv 2202.08788.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.batches import TableBatch, global_batch_size
from datamodules.distributed.collectives import all_reduce_sum, world_size
from lightning_modules.distributed.per_sample import gather_rows, share_sizes
from lightning_modules.full_precision import require_double
from lightning_modules.interfaces import RowBatches, Table, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.training.iterations import OwnUpdates, iterate
from lightning_modules.training.logging import log_same, log_training
from lightning_modules.training.requirements import require_all_rows

LOSSES: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "absolute": (torch.abs, torch.sign),
    "squared": (lambda residual: residual**2 / 2, lambda residual: residual),
}
"""Loss functions of a residual and their derivatives, by name."""
DRAWN_VALUES = 6
"""Maximum number of singular values of U in the table."""
MEASURES = ("relative error", "least signal", "greatest residual"), ("cosine", "scale")
"""Columns of the tables `error` and `sign_rip`; both tables exist only if X* is known."""


def residuals_and_direction(
    features: Tensor, target: Tensor, factor: Tensor, slope: Callable[[Tensor], Tensor], at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the residuals r_i = <A_i, U U^T> - y_i, and the sum over i of slope(r_i) A_i.

    If `at_once` is set, the measurements are processed in chunks.

    Args:
        features: measurement matrices A, `[m, d, d]`, on the device of the factor or, with `at_once`, on any device.
        target: measurements y, `[m]`.
        factor: factor U, `[d, r']`.
        slope: derivative of the loss with respect to the residual; `torch.sign` for the absolute loss.
        at_once: number of measurements that are moved to the device of the factor at once; None means that all
            measurements are already there.

    Returns:
        The residuals, `[m]`, and the sum, `[d, d]`.
    """
    product, rows = (factor @ factor.T).flatten(), features.flatten(1)
    if at_once is None:
        residual = rows @ product - target
        return residual, (slope(residual) @ rows).view_as(features[0])
    residuals, direction = [], torch.zeros_like(product)
    for part, measured in zip(rows.split(at_once), target.split(at_once), strict=True):
        own = part.to(factor.device, non_blocking=True)
        residuals.append(own @ product - measured.to(factor.device, non_blocking=True))
        direction += slope(residuals[-1]) @ own
    return torch.cat(residuals), direction.view_as(features[0])


def spectral_start(features: Tensor, target: Tensor, columns: int, measurements: int, device: torch.device) -> Tensor:
    """Compute B = Q_+ Lambda_+^(1/2), `[d, r']`, from the measurements of all ranks.

    Args:
        features: measurement matrices A on this rank, `[b, d, d]`.
        target: measurements y on this rank, `[b]`.
        columns: number r' of columns of B.
        measurements: total number m of measurements over all ranks.
        device: device on which B is computed.
    """
    signed = all_reduce_sum(torch.einsum("m,mij->ij", target.sign(), features).to(device)) / measurements
    values, vectors = torch.linalg.eigh((signed + signed.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()).flip(1)[:, :columns]


def signal_and_residual(factor: Tensor, x_star: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the smallest singular value of V^T U (signal) and the largest singular value of V_perp^T U (residual).

    Args:
        factor: factor U, `[d, r']`.
        x_star: true matrix X* = V Sigma V^T, `[d, d]`.
    """
    values, vectors = torch.linalg.eigh(x_star)
    of_range = values > 1e-9 * values[-1]
    signal = torch.linalg.svdvals((vectors * of_range).T @ factor)
    least = (of_range.sum() - 1).clamp(max=len(signal) - 1)
    return signal.take(least), torch.linalg.matrix_norm((vectors * ~of_range).T @ factor, ord=2)


def sign_rip(direction: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Compare Q = (1/m) sum_i sign(.) A_i with X = U U^T - X*.

    Return the cosine of the angle between Q and X, and the scale phi = <Q, X> / ||X||_F.

    Args:
        direction: matrix Q, `[d, d]`; this function symmetrises it.
        difference: error X of the estimate, `[d, d]`.
    """
    symmetric = (direction + direction.T) / 2
    scale = (symmetric * difference).sum() / difference.norm()
    return scale / symmetric.norm(), scale


class SubGM(MethodModule):
    """Recover a positive semidefinite matrix from measurements by sub-gradient steps.

    Training supports one or several ranks.

    Args:
        dim: dimension d of the matrix `[d, d]`.
        columns: number r' of columns of the factor; None means d, which is sufficient for any rank of X*.
        alpha: scale of the initial factor; a smaller alpha gives a smaller error, but requires more iterations.
        start: initial matrix B, `spectral` or `random`.
        loss: loss function, `absolute`, or `squared` for the baseline, which is not robust.
        step_rule: rule for the step sizes, `quantile`, `geometric` or `constant`.
        eta: factor eta of all step sizes.
        q: level q of the quantile of absolute residuals that `quantile` uses, below 1 - p.
        p: maximum fraction of the measurements that have gross errors.
        rho: ratio rho of successive step sizes for `geometric`.
        iterations_per_step: number of iterations per training step; each training step logs once.
        at_once: number of measurements that are moved to the device at once if the data stay on the CPU; None means
            that all measurements are on the device.
    """

    step_size: Tensor

    def __init__(
        self,
        dim: int,
        columns: int | None = None,
        alpha: float = 1e-3,
        start: Literal["spectral", "random"] = "spectral",
        loss: Literal["absolute", "squared"] = "absolute",
        step_rule: Literal["quantile", "geometric", "constant"] = "quantile",
        eta: float = 0.25,
        q: float = 0.5,
        p: float = 0.0,
        rho: float = 0.99,
        iterations_per_step: int = 20,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, dim=dim, iterations_per_step=iterations_per_step, at_once=at_once)
        within(1, dim, columns=columns)
        positive(alpha=alpha, eta=eta)
        one_of(("spectral", "random"), start=start)
        one_of(LOSSES, loss=loss)
        one_of(("quantile", "geometric", "constant"), step_rule=step_rule)
        within(0, 1, "[)", p=p)
        within(0, 1 - p if step_rule == "quantile" else 1, "()", q=q)
        within(0, 1, "(]", rho=rho)
        only_with("step_rule quantile", step_rule == "quantile", SubGM, q=q, p=p)
        only_with("step_rule geometric", step_rule == "geometric", SubGM, rho=rho)
        self.automatic_optimization = False
        self.dim = dim
        self.alpha = alpha
        self.start = start
        self.loss, self.slope = LOSSES[loss]
        self.step_rule = step_rule
        self.eta = eta
        self.q = q
        self.rho = rho
        self.iterations_per_step = iterations_per_step
        self.at_once = at_once
        orthogonal = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q
        self.factor = nn.Parameter(alpha * orthogonal[:, : columns or dim])
        self.register_buffer("step_size", torch.tensor(eta, dtype=torch.float64))
        self.history: list[Tensor] = []

    def setup(self, stage: str) -> None:
        require_double(self.trainer, "SubGM")
        require_all_rows(self.trainer, "SubGM")
        data = data_with(self.trainer, RowBatches)
        if self.at_once is None and data is not None and not data.rows_on_device:
            raise ValueError(
                "model.at_once (number of measurements on the device at once) must be set if data.rows_on_device is "
                "false"
            )

    def forward(self) -> Tensor:
        """Return the estimate U U^T, `[d, d]`."""
        return self.factor @ self.factor.T

    @torch.no_grad()
    def training_step(self, batch: TableBatch, batch_idx: int) -> dict[str, Tensor]:
        if self.trainer.global_step == 0 and self.start == "spectral":
            arguments = self.factor.shape[1], global_batch_size(batch), self.factor.device
            self.factor.copy_(self.alpha * spectral_start(batch["features"], batch["target"], *arguments))
        iterate(self, self.iterations_per_step, lambda: self._iteration(batch))
        residual, direction = self._direction(batch)
        self._record(direction, batch)
        return {"loss": log_training(self, batch, self.loss(residual).mean())}

    def _direction(self, batch: TableBatch) -> tuple[Tensor, Tensor]:
        """Compute the residuals on this rank, and (1/m) sum_i slope(r_i) A_i over the measurements of all ranks."""
        arrays = batch["features"], batch["target"]
        residual, direction = residuals_and_direction(*arrays, self.factor, self.slope, self.at_once)
        return residual, (all_reduce_sum(direction) if world_size() > 1 else direction) / global_batch_size(batch)

    def _iteration(self, batch: TableBatch) -> None:
        residual, direction = self._direction(batch)
        if self.step_rule == "quantile":
            absolute = residual.abs()
            if world_size() > 1:
                absolute = gather_rows(absolute, share_sizes(global_batch_size(batch)))
            torch.mul(absolute.quantile(self.q), self.eta, out=self.step_size)
        self.factor.sub_(self.step_size * ((direction + direction.T) @ self.factor))
        if self.step_rule == "geometric":
            self.step_size.mul_(self.rho)

    def _record(self, direction: Tensor, batch: TableBatch) -> None:
        """Record the singular values of U and, if X* is known, the error and its parts for the tables."""
        values = torch.linalg.svdvals(self.factor)[:DRAWN_VALUES]
        if "x_star" not in batch:
            self.history.append(values)
            return
        x_star = batch["x_star"]
        difference = self() - x_star
        error = difference.norm() / x_star.norm()
        parts = error, *signal_and_residual(self.factor, x_star), *sign_rip(direction, difference)
        self.history.append(torch.cat([values, torch.stack(parts)]))

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        if "x_star" in batch:
            error = (self() - batch["x_star"]).norm() / batch["x_star"].norm()
            least = torch.stack([error, *(row[-5].to(error) for row in self.history)]).min()
            log_same(self, "test/error", error)
            log_same(self, "test/least_error", least)

    @property
    def tables(self) -> Mapping[str, Table]:
        """Return tables of the singular values of U and, if X* is known, of the error and its parts by iteration."""
        if not self.history:
            return {}
        rows = torch.stack([row.cpu() for row in self.history])
        iteration = [(number + 1) * self.iterations_per_step for number in range(len(rows))]
        count = min(DRAWN_VALUES, *self.factor.shape)
        values = {
            "iteration": iteration * count,
            "number": [str(number + 1) for number in range(count) for _ in iteration],
            "singular value of U": rows[:, :count].T.flatten().tolist(),
        }
        made = {"singular_values": Table(values, logarithmic=["singular value of U"])}
        if rows.shape[1] > count:
            measured = dict(zip(chain(*MEASURES), rows[:, count:].T.tolist(), strict=True))
            error, direction = ({"iteration": iteration, **{key: measured[key] for key in own}} for own in MEASURES)
            made |= {"error": Table(error, logarithmic=MEASURES[0]), "sign_rip": Table(direction)}
        return made

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = [row.cpu() for row in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> OwnUpdates:
        return OwnUpdates(self.parameters())
