"""Command-line arguments that select where the runs of a comparison are launched: this machine, SLURM or Ray."""

import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

from experiments.arguments import named_value, positive_number
from experiments.launching.devices import exclusive_gpus, gpus_wanted, shares, visible_gpus
from experiments.launching.local import Local
from experiments.launching.run_queue import Launcher
from experiments.run_request import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select the launcher and the resources of each run."""
    parser.add_argument("--launcher", choices=("local", "slurm", "ray"), default="local", help="default: local")
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
        "--slurm", nargs="+", type=named_value, default=[], metavar="KEY=VALUE",
        help="sbatch parameters by their names in submitit: timeout_min=240 partition=gpu mem_gb=32",
    )  # fmt: skip
    parser.add_argument(
        "--no_fork",
        action="store_true",
        help="start each run in a new Python process instead of a fork with loaded modules, see docs/sweeps.md",
    )


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf and (value <= 1 or value == int(value)):
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is neither a whole number nor a fraction below 1 such as 0.5")


def launcher(options: argparse.Namespace, experiments: Sequence[Experiment], folder: Path) -> Launcher:
    """Build the launcher that the arguments select.

    Args:
        options: arguments that `add_arguments` has added.
        experiments: experiments to run.
        folder: folder for files of the launcher.
    """
    jobs, per_job, cpus = options.jobs, options.gpus_per_job, options.cpus_per_job
    if options.slurm and options.launcher != "slurm":
        raise ValueError(f"--slurm needs --launcher slurm, got {options.launcher}")
    if options.launcher == "slurm":
        from experiments.launching.slurm import Slurm

        return Slurm(folder, jobs, per_job, cpus, dict(options.slurm))
    if options.launcher == "ray":
        from experiments.launching.ray_tasks import RayTasks

        return RayTasks(jobs, per_job, cpus, gpus_wanted(experiments), options.no_fork)
    gpus = visible_gpus()
    if per_job and not gpus:
        raise ValueError(f"--gpus_per_job {per_job:g}: this machine has no GPU")
    if per_job is None:
        per_job = gpus_wanted(experiments) if gpus else 0
    own: list[str] | None = None
    if per_job:
        own = shares(gpus, jobs, per_job, exclusive=per_job < 1 and exclusive_gpus())
    elif options.gpus_per_job == 0:
        own = [""] * (jobs or 1)
    return Local(jobs or len(own or [""]), options.no_fork, own, cpus)
