"""GPUs of this machine, and what each of several runs beside each other gets of them.

A share is a value of `CUDA_VISIBLE_DEVICES`. The machine's GPUs are those that this process may see, or all: by their
own names, also those of the instances that a GPU is divided into by MIG.
"""

import os
import re
import subprocess
from collections.abc import Sequence

from experiments.run_request import Experiment, setting_of


def visible_gpus() -> list[str]:
    """List the GPUs that runs may use; none without a driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names: list[str] = []
        for name in given.split(","):
            if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name.strip()):
                break  # CUDA sees what stands before it
            names.append(name.strip())
        return names
    return listed_gpus(_ask("-L"))


def listed_gpus(text: str) -> list[str]:
    """Read the list of `nvidia-smi -L`: of a GPU that is divided, its instances."""
    found: list[list[str]] = []
    for line in text.splitlines():
        match = re.search(r"\(UUID: ((?:GPU|MIG)-[\w/-]+)\)", line)
        if match and line.startswith("GPU"):
            found.append([match[1]])
        elif match and found:
            found[-1].append(match[1])
    return [name for gpu in found for name in gpu[1:] or gpu]


def _ask(*arguments: str) -> str:
    try:
        return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def gpus_wanted(experiments: Sequence[Experiment]) -> int:
    """Tell how many GPUs a run asks for: none with `trainer.accelerator: cpu`, else `trainer.devices`, mostly one."""
    wanted = 0
    for each in experiments:
        devices = setting_of(each, "trainer.devices")
        if setting_of(each, "trainer.accelerator") != "cpu":
            count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1
            wanted = max(wanted, count, 1)
    return wanted


def shares(gpus: Sequence[str], jobs: int | None, per_job: float, exclusive: bool = False) -> list[str]:
    """Deal GPUs out to runs beside each other.

    Args:
        gpus: names.
        jobs: runs at a time; None for as many as the GPUs suffice for.
        per_job: GPUs of each of them: a whole number, or a part of one, which several runs share; above 0.
        exclusive: whether the driver lets one process alone use a GPU.

    Returns:
        The names that each run may see.

    Raises:
        ValueError: if there are fewer GPUs than runs need, or what they shall share cannot be shared.
    """
    if per_job > 1 and any(name.startswith("MIG-") for name in gpus):
        raise ValueError(f"--gpus_per_job {per_job:g}: a process can use one MIG instance, and these GPUs are divided")
    if per_job < 1 and exclusive:
        raise ValueError(
            f"--gpus_per_job {per_job:g}: a GPU of this machine is in the compute mode Exclusive_Process, in which "
            f"runs cannot share it"
        )
    room = int(len(gpus) / per_job + 1e-9)
    if room < (jobs or 1):
        needed = f"{jobs or 1} runs at a time need {(jobs or 1) * per_job:g} GPUs with {per_job:g} each"
        less = "fewer --jobs, or a smaller --gpus_per_job, 0.5 for two runs on a GPU and 0 for none"
        raise ValueError(f"{needed}, and this machine has {len(gpus)}: give {less}")
    jobs = jobs or room
    if per_job < 1:
        return [gpus[job % len(gpus)] for job in range(jobs)]
    whole = int(per_job)
    return [",".join(gpus[job * whole : (job + 1) * whole]) for job in range(jobs)]


def exclusive_gpus() -> bool:
    """Tell whether the driver lets one process alone use a GPU."""
    return "Exclusive_Process" in _ask("--query-gpu=compute_mode", "--format=csv,noheader")
