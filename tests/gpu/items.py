"""The measured items, most valuable first, with the estimated duration of each on a GPU of 2022."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.gpu.place import Place


@dataclass(frozen=True)
class Item:
    """One item of the table.

    Args:
        title: heading of the item on the results page.
        minutes: estimate on one GPU.
        run: a function of this package with its module, such as `speed.steps`; a child process imports and calls it.
        missing: function that returns a sentence that names the missing requirement, or None if nothing is missing.
        to_the_end: whether the item uses all the remaining time.
        exact: whether the item stops when its estimated time is over, because it adapts its work to the available time.
    """

    title: str
    minutes: float
    run: str
    missing: Callable[[Place], str | None] = lambda at: None
    to_the_end: bool = False
    exact: bool = False


def no_cifar(at: Place) -> str | None:
    """Return a message if CIFAR-10 is missing."""
    if at.data is not None and (at.data / "cifar10").is_dir():
        return None
    return f"CIFAR-10 is not in {at.data / 'cifar10' if at.data else 'any folder'}: set the data folder with --data"


def no_ranks(at: Place) -> str | None:
    """Return a message if processes cannot be forked here."""
    return None if hasattr(os, "fork") else "two ranks must be forked, but this system cannot fork processes"


ITEMS = {
    "conformance": Item("Every demo trains, is tested and predicts", 8, "conformance.conformance"),
    "ranks": Item("Agreement of NCCL ranks with a single process", 4, "ranks.ranks", no_ranks),
    "agreement": Item("Numerical agreement of CPU and GPU", 3, "agreement.agreement"),
    "steps": Item("Time of a step of fit, relative to a plain loop", 1.5, "speed.steps"),
    "images": Item("Images per second of DataModules and of networks in training", 2, "speed.images"),
    "measuring": Item("Speed of certification and FID, relative to the network alone", 1.5, "speed.measuring"),
    "wta_crs": Item("Memory of WTA-CRS", 3, "memory.wta_crs"),
    "targets": Item("Memory of ELR's targets", 0.5, "memory.targets"),
    "finetuning": Item("Memory of LoRA and full fine-tuning", 3, "memory.finetuning"),
    "kernels": Item("Semi-structured kernels for 2:4 weights", 0.5, "kernels.kernels"),
    "elr": Item("ELR on CIFAR-10", 4.5, "real_runs.elr", no_cifar, exact=True),
    "cross_entropy": Item("Cross-entropy on CIFAR-10", 4.5, "real_runs.cross_entropy", no_cifar, exact=True),
    "certified": Item("Certification of a ResNet-110", 3, "real_runs.certified", no_cifar, exact=True),
    "score_sde": Item("score_sde VP on CIFAR-10", 1, "real_runs.score_sde", no_cifar, to_the_end=True),
}
