"""Learning rate and momentum, computed from curvature that is measured during training."""

import math
from typing import Literal, NamedTuple, get_args

from torch import Tensor
from torch.optim import Optimizer

from datamodules.arguments import at_least, one_of, only_with
from lightning_modules.metrics.curvature import BatchNorm, CurvatureProduct
from lightning_modules.metrics.lanczos import Spectrum, lanczos, unit_vector

Rule = Literal["ssgd", "ssgdm", "ssgdmn", "nesterov", "rayleigh"]
Least = Literal["median", "minimum"]
SPIKE = 0.5
"""A Ritz value with a weight above this value is considered to be the spike of the spectrum at zero."""


class Range(NamedTuple):
    """The largest curvature and a small curvature of a spectrum."""

    greatest: float
    """Largest curvature L."""
    least: float
    """Small curvature mu."""


def curvature_range(spectrum: Spectrum, least: Least, signed: bool) -> Range:
    """Compute the largest curvature L and a small curvature mu from Ritz values.

    Args:
        spectrum: Ritz values with their weights.
        least: definition of mu: `median` is the median of the Ritz values, and `minimum` is the minimum of the Ritz
            values with weights of at most one half, which excludes the spike at zero.
        signed: whether to ignore negative Ritz values; if false, their absolute values are used.
    """
    values, weights = spectrum
    if signed:
        values, weights = values[values > 0], weights[values > 0]
    values = values.abs()
    if not len(values):
        return Range(math.nan, math.nan)
    if least == "median":
        return Range(float(values.max()), float(values.quantile(0.5)))
    kept = values[weights <= SPIKE]
    return Range(float(values.max()), float(kept.min() if len(kept) else values.min()))


def learner_settings(rule: Rule, greatest: float, least: float) -> dict[str, float]:
    """Compute the optimizer settings of a rule.

        ssgd      lr = 2 / (L + mu)
        ssgdm     lr = (2 / (sqrt L + sqrt mu))^2,  momentum = ((sqrt L - sqrt mu) / (sqrt L + sqrt mu))^2  (Polyak)
        ssgdmn    lr = sqrt(mu / L),  momentum = (sqrt L - sqrt mu) / (sqrt L + sqrt mu)  (as in the authors' code)
        nesterov  lr = 1 / L,  momentum as for ssgdmn  (as in textbooks)

    Args:
        rule: name of a rule other than `rayleigh`.
        greatest: largest curvature L, positive.
        least: small curvature mu, at least 0 and at most L.
    """
    if rule == "ssgd":
        return {"lr": 2 / (greatest + least)}
    total, difference = (math.sqrt(greatest) + sign * math.sqrt(least) for sign in (1, -1))
    if rule == "ssgdm":
        return {"lr": (2 / total) ** 2, "momentum": (difference / total) ** 2}
    rate = math.sqrt(least / greatest) if rule == "ssgdmn" else 1 / greatest
    return {"lr": rate, "momentum": difference / total}


def rayleigh_rate(gradient: Tensor, product: Tensor) -> float:
    """Compute (g . g) / (g . H g), the optimal step size along the gradient g of a quadratic loss; NaN if g is zero."""
    return float((gradient @ gradient) / (gradient @ product))


def set_keys(optimizer: Optimizer, values: dict[str, float]) -> None:
    """Set the given entries in all parameter groups of an optimizer; entries that are tensors are filled in place."""
    for group in optimizer.param_groups:
        for key, value in values.items():
            if isinstance(group[key], Tensor):
                group[key].fill_(value)
            else:
                group[key] = value


class OnlineLearner:
    """Set the learning rate and, for some rules, the momentum from the Hessian on fixed training images.

    The curvature is measured without augmentation, before the first batch of an epoch. The resulting settings override
    the learning-rate schedule until the next measurement. Before the first measurement, the schedule applies. The
    computed settings are discarded unless all of them are finite and the learning rate is positive.

    Args:
        rule: rule that computes the settings (see `learner_settings`): `ssgd`, `ssgdm` (Polyak's heavy ball), `ssgdmn`
            (as in the authors' code), `nesterov` (as in textbooks), or `rayleigh`, which uses only the curvature along
            the gradient.
        every_n_epochs: number of epochs between measurements.
        first_epoch: number of epochs before the first measurement.
        samples: number of training images on which the curvature is measured, sampled once; None means all training
            images.
        steps: number of Lanczos steps.
        least: definition of the small curvature mu, `median` or `minimum` (see `curvature_range`).
        signed: whether to ignore negative curvature; if false, absolute values are used.
        batch_norm: statistics that BatchNorm uses during the measurement: `batch` for the statistics of each batch, or
            `running` for the running statistics.
        images_at_once: number of images per rank in each batch of a Hessian-vector product.
        seed: random seed for sampling the images and the starting vector.
    """

    def __init__(
        self,
        rule: Rule = "ssgd",
        every_n_epochs: int = 20,
        first_epoch: int = 0,
        samples: int | None = 1024,
        steps: int = 20,
        least: Least = "median",
        signed: bool = False,
        batch_norm: BatchNorm = "batch",
        images_at_once: int = 1024,
        seed: int = 0,
    ) -> None:
        one_of(get_args(Rule), rule=rule)
        one_of(get_args(Least), least=least)
        one_of(get_args(BatchNorm), batch_norm=batch_norm)
        at_least(1, every_n_epochs=every_n_epochs, samples=samples)
        at_least(0, first_epoch=first_epoch)
        at_least(2, steps=steps, images_at_once=images_at_once)
        spectrum = {"steps": steps, "least": least, "signed": signed}
        only_with("another rule than rayleigh", rule != "rayleigh", OnlineLearner, **spectrum)
        self.rule = rule
        self.every_n_epochs = every_n_epochs
        self.first_epoch = first_epoch
        self.samples = samples
        self.steps = steps
        self.least = least
        self.signed = signed
        self.batch_norm = batch_norm
        self.images_at_once = images_at_once
        self.seed = seed

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the optimizer settings that the rule sets."""
        return ("lr",) if self.rule in ("ssgd", "rayleigh") else ("lr", "momentum")

    def check(self, optimizer: Optimizer) -> None:
        """Reject an optimizer that lacks a setting that the rule computes."""
        for group in optimizer.param_groups:
            if missing := [key for key in self.keys if key not in group]:
                raise ValueError(
                    f"model.learner.rule {self.rule} sets {missing[0]}, which {type(optimizer).__name__} lacks: "
                    f"use rule ssgd or rayleigh, or an optimizer with {missing[0]}"
                )
            if self.rule == "nesterov" and not group.get("nesterov"):
                raise ValueError("model.learner.rule nesterov needs an optimizer with nesterov: true")

    def is_due(self, epoch: int) -> bool:
        return epoch >= self.first_epoch and epoch % self.every_n_epochs == 0

    def measure(self, product: CurvatureProduct) -> tuple[dict[str, float], dict[str, float]]:
        """Measure the curvature, and compute the optimizer settings.

        Return the settings and the measured values. The settings are empty if they were discarded.
        """
        if self.rule == "rayleigh":
            gradient = product.gradient()
            along = product(gradient)
            found = {"curvature_along_gradient": float((gradient @ along) / (gradient @ gradient))}
            values = {"lr": rayleigh_rate(gradient, along)}
        else:
            start = unit_vector(product.size, self.seed, like=product.like)
            L, mu = curvature_range(lanczos(product, start, self.steps), self.least, self.signed)
            found = {"greatest_curvature": L, "least_curvature": mu}
            values = learner_settings(self.rule, L, mu) if L > 0 else {}
        taken = bool(values) and all(math.isfinite(value) for value in values.values()) and values["lr"] > 0
        return (values if taken else {}), found
