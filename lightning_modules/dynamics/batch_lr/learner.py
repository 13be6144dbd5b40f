"""Learning rate and momentum from the curvature that is measured while a network trains."""

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
"""Weight above which a Ritz value is the spike at zero."""


class Range(NamedTuple):
    """The two curvatures of a spectrum that rules need."""

    greatest: float
    """L."""
    least: float
    """mu."""


def curvature_range(spectrum: Spectrum, least: Least, signed: bool) -> Range:
    """Read the greatest curvature L and the small one mu off Ritz values.

    Args:
        spectrum: Ritz values with their weights.
        least: mu is the `median`, or the `minimum` of the values that have no more than half of the weight, which the
            spike at zero has.
        signed: leaves out negative values; otherwise they count by their size.
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


def learned(rule: Rule, greatest: float, least: float) -> dict[str, float]:
    """Compute what a rule sets, by the keys of an optimizer.

        ssgd      lr = 2 / (L + mu)
        ssgdm     lr = (2 / (sqrt L + sqrt mu))^2,  momentum = ((sqrt L - sqrt mu) / (sqrt L + sqrt mu))^2  (Polyak)
        ssgdmn    lr = sqrt(mu / L),  momentum = (sqrt L - sqrt mu) / (sqrt L + sqrt mu)  (as in the authors' code)
        nesterov  lr = 1 / L,  the same momentum  (as in textbooks)

    Args:
        rule: any but `rayleigh`.
        greatest: L, positive.
        least: mu, at least 0 and at most L.
    """
    if rule == "ssgd":
        return {"lr": 2 / (greatest + least)}
    total, difference = (math.sqrt(greatest) + sign * math.sqrt(least) for sign in (1, -1))
    if rule == "ssgdm":
        return {"lr": (2 / total) ** 2, "momentum": (difference / total) ** 2}
    rate = math.sqrt(least / greatest) if rule == "ssgdmn" else 1 / greatest
    return {"lr": rate, "momentum": difference / total}


def rayleigh_rate(gradient: Tensor, product: Tensor) -> float:
    """Compute g . g / g . H g, the step that is best along the gradient of a quadratic loss; NaN where g is zero."""
    return float((gradient @ gradient) / (gradient @ product))


def set_keys(optimizer: Optimizer, values: dict[str, float]) -> None:
    """Set keys of all parameter groups; one that holds a tensor keeps it and takes the value."""
    for group in optimizer.param_groups:
        for key, value in values.items():
            if isinstance(group[key], Tensor):
                group[key].fill_(value)
            else:
                group[key] = value


class OnlineLearner:
    """Learns the rate, and by some rules the momentum, from the Hessian on fixed training images without augmentation.

    It measures before the first batch of an epoch. What is learned holds until the next measurement, whatever the
    schedule says; before the first one the schedule holds. A rate that is not positive and finite is not taken.

    Args:
        rule: `ssgd`, `ssgdm` (Polyak's heavy ball), `ssgdmn` (as the authors' code), `nesterov` (as textbooks) or
            `rayleigh` (along the gradient).
        every_n_epochs: epochs from one measurement to the next.
        first_epoch: epochs that pass before anything is measured.
        samples: training images, drawn once; None takes all.
        steps: Lanczos steps.
        least: what stands for the least curvature, the `median` or the `minimum` of the Ritz values.
        signed: leaves out negative curvature, which otherwise counts by its size.
        batch_norm: statistics of BatchNorm: those of each `batch`, or the `running` ones.
        images_at_once: images of a product's batch in a process.
        seed: random seed of the images and of the starting vector.

    Raises:
        ValueError: if an argument is out of range.
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
        """Keys of an optimizer that the rule sets."""
        return ("lr",) if self.rule in ("ssgd", "rayleigh") else ("lr", "momentum")

    def check(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer without the keys that the rule sets.

        Raises:
            ValueError: names the rule, the optimizer and the key.
        """
        for group in optimizer.param_groups:
            if missing := [key for key in self.keys if key not in group]:
                raise ValueError(
                    f"model.learner.rule {self.rule} sets {missing[0]}, which {type(optimizer).__name__} has not: "
                    f"use one of ssgd, rayleigh, or an optimizer with {missing[0]}"
                )
            if self.rule == "nesterov" and not group.get("nesterov"):
                raise ValueError("model.learner.rule nesterov needs an optimizer with nesterov: true")

    def is_due(self, epoch: int) -> bool:
        return epoch >= self.first_epoch and epoch % self.every_n_epochs == 0

    def measure(self, product: CurvatureProduct) -> tuple[dict[str, float], dict[str, float]]:
        """Measure curvature, and give what is learned by the optimizer's keys, if anything, and what was measured."""
        if self.rule == "rayleigh":
            gradient = product.gradient()
            along = product(gradient)
            found = {"curvature_along_gradient": float((gradient @ along) / (gradient @ gradient))}
            values = {"lr": rayleigh_rate(gradient, along)}
        else:
            start = unit_vector(product.size, self.seed, like=product.like)
            L, mu = curvature_range(lanczos(product, start, self.steps), self.least, self.signed)
            found = {"greatest_curvature": L, "least_curvature": mu}
            values = learned(self.rule, L, mu) if L > 0 else {}
        taken = bool(values) and all(math.isfinite(value) for value in values.values()) and values["lr"] > 0
        return (values if taken else {}), found
