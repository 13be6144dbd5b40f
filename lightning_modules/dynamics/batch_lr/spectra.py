"""Hessian spectra of batches of several sizes, compared with the spectrum of all samples and with predictions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of
from datamodules.randomness.generators import generator_of
from lightning_modules.dynamics.batch_lr.theory import (
    NoiseStatistics,
    effective_batch,
    fitted_constant,
    isotropic,
    noise_statistics,
    spiked_covariance,
)
from lightning_modules.interfaces import Table
from lightning_modules.metrics.curvature import BatchNorm, CurvatureProduct, Matrix, curvature_mode
from lightning_modules.metrics.lanczos import Spectrum, lanczos, spectral_density, unit_vector
from lightning_modules.training.chosen_samples import chosen_samples, drawn_places

POINTS, WIDTH, CURVE = 400, 0.01, 41
"""Number of points of a density, its kernel width relative to the eigenvalue range, and number of points of a curve."""
NAME = "BatchSpectra"


class Shift(NamedTuple):
    """Mean of the smallest or of the largest eigenvalue over batches of the same size."""

    batch_size: int
    value: float
    """Mean over batches."""
    error: float
    """Standard error of the mean; 0 if there is only one batch."""


class MeasuredSpectra(NamedTuple):
    """Measured spectra of a network; they can be converted to plain containers for a checkpoint."""

    samples: int
    """Number N of samples."""
    full: tuple[float, float]
    """Smallest and largest eigenvalues of the Hessian of all samples."""
    least: list[Shift]
    greatest: list[Shift]
    row_variance: float
    """P sigma^2, the parameter of the isotropic noise model."""
    hessian: NoiseStatistics
    gradient: NoiseStatistics
    density: dict[str, list[Any]]
    """Spectral densities of all samples and of the smallest batches, as table columns."""
    loss: tuple[float, float] = (math.nan, math.nan)
    """Mean and variance of the batch loss over batches."""
    trace: float | None = None
    """Estimated trace of the Gauss-Newton matrix of all samples; None if Hessians are measured."""
    size: int = 0
    """Number P of weights."""

    @classmethod
    def restore_state(cls, kept: Mapping[str, Any]) -> "MeasuredSpectra":
        """Restore the spectra from the result of `kept`."""
        shifts = {name: [Shift(*each) for each in kept[name]] for name in ("least", "greatest")}
        noise = {name: NoiseStatistics(*kept[name]) for name in ("hessian", "gradient")}
        loss = {"loss": tuple(kept.get("loss", (math.nan, math.nan)))}
        return cls(**{**kept, **shifts, **noise, **loss})

    def checkpoint_state(self) -> dict[str, Any]:
        """Convert the spectra to plain containers for a checkpoint."""
        shifts = {name: [tuple(each) for each in getattr(self, name)] for name in ("least", "greatest")}
        noise = {name: tuple(getattr(self, name)) for name in ("hessian", "gradient")}
        return {**self._asdict(), **shifts, **noise}

    def small(self) -> list[Shift]:
        """Return the largest eigenvalues for batch sizes up to N / 10, or for all batch sizes if none is that small."""
        return [each for each in self.greatest if 10 * each.batch_size <= self.samples] or self.greatest

    def constant(self) -> tuple[float, float]:
        """Fit c in lambda_B = lambda + c / b to the small batch sizes, and return c and its standard error."""
        b = [effective_batch(each.batch_size, self.samples) for each in self.small()]
        shift = [each.value - self.full[1] for each in self.small()]
        return fitted_constant(shift, b, [each.error for each in self.small()])

    def predict_course(self, batch_size: float) -> tuple[float, float]:
        """Predict the largest Hessian eigenvalue of a batch by the fitted law, and by the isotropic noise model."""
        inverse = 1 / batch_size - 1 / self.samples
        return self.full[1] + self.constant()[0] * inverse, isotropic(self.full[1], self.row_variance * inverse)

    def by_covariance(self, batch_size: float) -> float:
        """Predict the largest eigenvalue of a batch's Gauss-Newton matrix, assuming Marchenko-Pastur noise."""
        effective = 1 / (1 / batch_size - 1 / self.samples)
        return spiked_covariance(self.full[1], self.trace or 0.0, self.size, effective)

    def metrics(self) -> dict[str, float]:
        """Return scalars that summarise the spectra.

        `shift_factor` is the ratio of the largest to the smallest value of (lambda_B - lambda) B over the batch sizes
        of `small`; the scaling law predicts 1. `shift_exponent` is the exponent of B in lambda_B - lambda; the scaling
        law predicts -1. `isotropic_share` is the shift lambda_B - lambda that the isotropic model predicts for the
        smallest B, divided by the measured shift. `isotropic_constant` is (P sigma^2) / lambda. `covariance_share` and
        `covariance_constant` are the corresponding values if the noise of the Gauss-Newton matrix follows the
        Marchenko-Pastur law. `loss_var` is the variance of the batch loss over batches of `noise_batch` samples.
        """
        shift = torch.tensor([each.value - self.full[1] for each in self.small()], dtype=torch.float64)
        size = torch.tensor([each.batch_size for each in self.small()], dtype=torch.float64)
        steps = size.log() - size.log().mean()
        c, error = self.constant()
        by_theory = self.predict_course(self.greatest[0].batch_size)[1] - self.full[1]
        found = {
            "least_eigenvalue": self.full[0],
            "greatest_eigenvalue": self.full[1],
            "shift_factor": float((shift * size).max() / (shift * size).min()) if bool((shift > 0).all()) else math.inf,
            "shift_factor_of_law": 1.0,
            "shift_exponent": float((steps * shift.log()).sum() / (steps**2).sum()),
            "fitted_constant": c,
            "fitted_constant_error": error,
            "row_variance": self.row_variance,
            "isotropic_constant": self.row_variance / self.full[1],
            "isotropic_share": by_theory / float(shift[0]),
            "hess_mu": self.hessian.mu,
            "hess_var": self.hessian.variance,
            "hess_delta": self.hessian.delta,
            "hess_alpha": self.hessian.alpha,
            "grad_var": self.gradient.variance,
            "grad_alpha": self.gradient.alpha,
            "loss_mean": self.loss[0],
            "loss_var": self.loss[1],
        }
        if self.trace is not None:
            found["covariance_constant"] = self.trace - self.full[1]
            by_covariance = self.by_covariance(self.greatest[0].batch_size)
            found["covariance_share"] = (by_covariance - self.full[1]) / float(shift[0])
        return found | {f"greatest_eigenvalue_b{each.batch_size}": each.value for each in self.greatest}

    def tables(self) -> Mapping[str, Table]:
        """Return tables of the eigenvalues by batch size, with fitted curves, and of the spectral densities."""
        sizes = [each.batch_size for each in self.greatest]
        low, high = math.log(min(sizes)), math.log(max(sizes))
        curve = [math.exp(low + (high - low) * place / (CURVE - 1)) for place in range(CURVE)]
        by_fit, by_theory = zip(*(self.predict_course(size) for size in curve), strict=True)
        shown: dict[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] = {
            "measured": (sizes, [each.value for each in self.greatest], [each.error for each in self.greatest]),
            "fitted lambda + c / b": (curve, by_fit, [math.nan] * CURVE),
            "isotropic noise": (curve, by_theory, [math.nan] * CURVE),
            "all samples": (curve, [self.full[1]] * CURVE, [math.nan] * CURVE),
        }
        if self.trace is not None:
            by_covariance = [self.by_covariance(size) for size in curve]
            shown["Marchenko-Pastur noise"] = (curve, by_covariance, [math.nan] * CURVE)
        at: list[float] = []
        what: list[str] = []
        top: list[float] = []
        error: list[float] = []
        for name, (places, values, errors) in shown.items():
            at += places
            what += [name] * len(places)
            top += values
            error += errors
        columns = {"batch size": at, "eigenvalue": what, "greatest eigenvalue": top, "standard error": error}
        rate = [2 / value for value in top]
        drawn = {"greatest eigenvalue": top, "largest stable rate 2 / eigenvalue": rate}
        least = {
            "batch size": sizes,
            "least eigenvalue": [each.value for each in self.least],
            "standard error": [each.error for each in self.least],
        }
        return {
            "batch_spectra": Table(columns, drawn, logarithmic={"batch size", *drawn}),
            "batch_least": Table(least, {"least eigenvalue": least["least eigenvalue"]}, logarithmic={"batch size"}),
            "batch_density": Table(self.density, logarithmic={"density"}),
        }


class BatchSpectra:
    """Measure Hessian spectra of batches of several sizes after the last training epoch.

    For each batch size, batches are sampled without replacement from the training images, without augmentation. The
    Lanczos iteration computes the extreme eigenvalues, with a new starting vector for each batch. All sums are taken
    over all ranks.

    Args:
        batch_sizes: batch sizes B to measure, all smaller than the number of samples.
        draws: number of batches of each size.
        steps: number of Lanczos steps.
        samples: number N of training images, sampled once, that are used as the full set; None means all training
            images.
        noise_batch: size of the batches over which the variance of Hessian-vector products is measured.
        directions: number of random unit vectors z for which the variance of H z is measured.
        matrix: curvature matrix to measure, `hessian` or the positive semidefinite `gauss_newton`.
        batch_norm: statistics that BatchNorm uses during the measurement: `batch` for the statistics of each batch, or
            `running` for the running statistics.
        images_at_once: number of images per rank in each batch of a Hessian-vector product.
        seed: random seed for sampling images, batches and vectors.
    """

    def __init__(
        self,
        batch_sizes: list[int],
        draws: int = 24,
        steps: int = 25,
        samples: int | None = None,
        noise_batch: int = 8,
        directions: int = 8,
        matrix: Matrix = "hessian",
        batch_norm: BatchNorm = "batch",
        images_at_once: int = 1024,
        seed: int = 0,
    ) -> None:
        at_least(1, number_of_batch_sizes=len(batch_sizes), draws=draws, samples=samples, directions=directions)
        at_least(2, steps=steps, images_at_once=images_at_once, noise_batch=noise_batch)
        at_least(2, least_of_batch_sizes=min(batch_sizes))
        one_of(get_args(Matrix), matrix=matrix)
        one_of(get_args(BatchNorm), batch_norm=batch_norm)
        self.batch_sizes = sorted(batch_sizes)
        self.draws = draws
        self.steps = steps
        self.samples = samples
        self.noise_batch = noise_batch
        self.directions = directions
        self.matrix: Matrix = matrix
        self.batch_norm: BatchNorm = batch_norm
        self.images_at_once = images_at_once
        self.seed = seed

    def places(self, data: Any) -> Tensor:
        """Sample the N images of the full set, and return their indices in the training set."""
        places = drawn_places(data, self.samples or data.num_train_samples, NAME, self.seed)
        for size in (self.batch_sizes[-1], self.noise_batch):
            if size >= len(places):
                raise ValueError(f"batch sizes of {NAME} must be below {len(places)}, the sample count, got {size}")
        return places

    def measure(self, trainer: Any, network: nn.Module) -> MeasuredSpectra:
        """Measure the spectra of a network; every rank must call this method."""
        places = self.places(trainer.datamodule)

        def product(chosen: Tensor) -> CurvatureProduct:
            return CurvatureProduct(network, chosen_samples(trainer, chosen, NAME, self.images_at_once), self.matrix)

        def spectrum(of: CurvatureProduct, *seed: int) -> Spectrum:
            return lanczos(of, unit_vector(of.size, self.seed, *seed, like=of.like), self.steps)

        with curvature_mode(network, self.batch_norm):
            everything = product(places)
            full = [spectrum(everything, 0, start) for start in range(2)]
            of_size: dict[int, list[Spectrum]] = {}
            for size in self.batch_sizes:
                orders = (torch.randperm(len(places), generator=self._generator(size, n)) for n in range(self.draws))
                drawn = (product(places[order[:size]]) for order in orders)
                of_size[size] = [spectrum(each, size, number) for number, each in enumerate(drawn)]
            parts = [part for part in places.split(self.noise_batch) if len(part) == self.noise_batch]
            hessian, gradient, loss = self._noise(map(product, parts), everything, len(parts))
        ends = (min(float(each.values[0]) for each in full), max(float(each.values[-1]) for each in full))
        least, greatest = ([_mean(size, of_size[size], end) for size in self.batch_sizes] for end in (0, -1))
        row_variance = hessian.variance * effective_batch(self.noise_batch, len(places))
        density = _densities({"all samples": full, f"batches of {self.batch_sizes[0]}": of_size[self.batch_sizes[0]]})
        trace = hessian.mu * everything.size if self.matrix == "gauss_newton" else None
        return MeasuredSpectra(
            len(places),
            ends,
            least,
            greatest,
            row_variance,
            hessian,
            gradient,
            density,
            loss,
            trace,
            everything.size,
        )

    def _generator(self, *seed: int) -> torch.Generator:
        return generator_of(self.seed, 1, *seed)

    def _noise(
        self, products: Iterable[CurvatureProduct], everything: CurvatureProduct, n: int
    ) -> tuple[NoiseStatistics, NoiseStatistics, tuple[float, float]]:
        """Compute noise statistics of Hessian-vector products and of gradients, and the batch loss's mean and variance.

        The statistics of Hessian-vector products are averaged over random directions z.
        """
        like, size = everything.like, everything.size
        z = [unit_vector(size, self.seed, 2, number, like=like) for number in range(self.directions)]
        equal = torch.full((size,), size**-0.5, dtype=like.dtype, device=like.device)
        means, squares = torch.zeros(len(z) + 1, size).to(like), torch.zeros(len(z) + 1).to(like)
        losses = []
        for each in products:
            losses.append(each.loss().double())
            found = torch.stack([*map(each, z), each.gradient()])
            means += found / n
            squares += (found**2).sum(dim=1) / n
        *hessian, gradient = (
            noise_statistics(mean, float(square), direction, n)
            for mean, square, direction in zip(means, squares, [*z, equal], strict=True)
        )
        loss = torch.stack(losses)
        over_z = NoiseStatistics(*(sum(each) / len(each) for each in zip(*hessian, strict=True)))
        return over_z, gradient, (float(loss.mean()), float(loss.var(correction=0)))


def _mean(size: int, spectra: Sequence[Spectrum], end: int) -> Shift:
    values = torch.stack([each.values[end] for each in spectra])
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Shift(size, float(values.mean()), error)


def _densities(spectra: Mapping[str, Sequence[Spectrum]]) -> dict[str, list[Any]]:
    """Compute a smooth density for each named set of spectra, with a common kernel width, and return table columns."""
    every = [each for of_one in spectra.values() for each in of_one]
    low, high = min(float(each.values[0]) for each in every), max(float(each.values[-1]) for each in every)
    width = (high - low) * WIDTH or 1.0
    at = torch.linspace(low - 4 * width, high + 4 * width, POINTS, dtype=torch.float64)
    columns: dict[str, list[Any]] = {"eigenvalue": [], "matrix": [], "density": []}
    for name, of_one in spectra.items():
        columns["eigenvalue"] += at.tolist()
        columns["matrix"] += [name] * POINTS
        columns["density"] += spectral_density(of_one, at, width).tolist()
    return columns
