"""Command-line arguments that select where the runs of a comparison are launched: this machine, SLURM or Ray."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from experiments.arguments import positive_number
from experiments.launching.devices import exclusive_gpus, gpus_wanted, shares, visible_gpus
from experiments.launching.local import Local
from experiments.launching.run_queue import Launcher
from experiments.run_request import Experiment


@dataclass(frozen=True)
class Resources:
    """Arguments that select the launcher and the resources of each run."""

    launcher: str
    jobs: int | None
    gpus_per_job: float | None
    cpus_per_job: int | None
    slurm: dict[str, str]
    no_fork: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add to a parser the command-line arguments that set the fields of `Resources`."""
    parser.add_argument(
        "--launcher",
        choices=("local", "slurm", "ray"),
        default="local",
        help="launcher of the runs (default: local)",
    )
    parser.add_argument(
        "--jobs", type=positive_number, help="concurrent runs (default: 1 per GPU, or 1 without GPUs; on a cluster all)"
    )
    parser.add_argument(
        "--gpus_per_job", type=_share, metavar="N", help="GPUs per run; 0.5: two runs share one, 0: none (default: 1)"
    )
    parser.add_argument(
        "--cpus_per_job", type=positive_number, metavar="N", help="CPU cores per run (default: an equal share)"
    )
    parser.add_argument(
        "--slurm", nargs="+", type=_pair, default=[], metavar="KEY=VALUE",
        help="sbatch parameters by their names in submitit: timeout_min=240 partition=gpu mem_gb=32",
    )  # fmt: skip
    parser.add_argument(
        "--no_fork",
        action="store_true",
        help="start each run in a new Python process instead of a fork with loaded modules, see docs/runs.md",
    )


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf and (value <= 1 or value == int(value)):
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is neither a whole number nor a fraction below 1 such as 0.5")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return key, value


def resources(options: argparse.Namespace) -> Resources:
    """Return the values of the arguments that `add_arguments` has added."""
    own = {field.name: getattr(options, field.name) for field in fields(Resources)}
    return Resources(**own | {"slurm": dict(options.slurm)})


def launcher(wanted: Resources, experiments: Sequence[Experiment], folder: Path) -> Launcher:
    """Build the launcher that the arguments select.

    Args:
        wanted: arguments that select launcher and resources.
        experiments: experiments to run.
        folder: folder for files of the launcher.

    Raises:
        ValueError: if a package is missing, or if the machine or cluster cannot satisfy an argument. The message names
            the package or the argument.
    """
    if wanted.slurm and wanted.launcher != "slurm":
        raise ValueError(f"--slurm needs --launcher slurm, got {wanted.launcher}")
    if wanted.launcher == "slurm":
        from experiments.launching.slurm import Slurm

        return Slurm(folder, wanted.jobs, wanted.gpus_per_job, wanted.cpus_per_job, wanted.slurm)
    if wanted.launcher == "ray":
        from experiments.launching.ray_tasks import RayTasks

        return RayTasks(wanted.jobs, wanted.gpus_per_job, wanted.cpus_per_job, gpus_wanted(experiments), wanted.no_fork)
    gpus = visible_gpus()
    per_job = wanted.gpus_per_job
    if per_job and not gpus:
        raise ValueError(f"--gpus_per_job {per_job:g}: this machine has no GPU")
    if per_job is None:
        per_job = gpus_wanted(experiments) if gpus else 0
    own: list[str] | None = None
    if per_job:
        own = shares(gpus, wanted.jobs, per_job, exclusive=per_job < 1 and exclusive_gpus())
    elif wanted.gpus_per_job == 0:
        own = [""] * (wanted.jobs or 1)
    return Local(wanted.jobs or len(own or [""]), wanted.no_fork, own, wanted.cpus_per_job)
