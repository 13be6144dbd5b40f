"""Assign the GPUs of this machine to concurrent runs.

Each run gets a share of the GPUs through the environment variable `CUDA_VISIBLE_DEVICES`. The available GPUs are those
that are visible to this process. If their visibility is not restricted, all GPUs and MIG instances are available,
identified by their UUIDs.
"""

import os
import re
import subprocess
from collections.abc import Sequence

from experiments.run_request import Experiment, setting_of

FORMAT = "--format=csv,noheader,nounits"


def visible_gpus() -> list[str]:
    """List the GPUs that are available to runs. The list is empty if there is no driver."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names: list[str] = []
        for name in given.split(","):
            if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name.strip()):
                break  # CUDA ignores everything after an invalid name
            names.append(name.strip())
        return names
    return listed_gpus(_ask("-L"))


def listed_gpus(text: str) -> list[str]:
    """Parse the output of `nvidia-smi -L`. A GPU with MIG instances is replaced with these instances."""
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
    """Return the number of GPUs per run: 0 if `trainer.accelerator` is `cpu`, else `trainer.devices` (default 1)."""
    wanted = 0
    for each in experiments:
        devices = setting_of(each, "trainer.devices")
        if setting_of(each, "trainer.accelerator") != "cpu":
            count = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) else 1
            wanted = max(wanted, count, 1)
    return wanted


def shares(gpus: Sequence[str], jobs: int | None, per_job: float, exclusive: bool = False) -> list[str]:
    """Assign GPUs to concurrent runs.

    Args:
        gpus: names of the GPUs.
        jobs: number of concurrent runs. None means as many runs as the GPUs allow.
        per_job: number of GPUs per run, above 0: an integer, or a fraction below 1 if runs share a GPU.
        exclusive: whether the driver allows only one process per GPU.

    Returns:
        The GPUs that are visible to each run.
    """
    if per_job > 1 and any(name.startswith("MIG-") for name in gpus):
        reason = "a process can use one MIG instance at most, and GPUs of this machine are MIG instances"
        raise ValueError(f"--gpus_per_job {per_job:g}: {reason}")
    if per_job < 1 and exclusive:
        mode = "a GPU of this machine is in compute mode Exclusive_Process"
        raise ValueError(f"--gpus_per_job {per_job:g}: runs cannot share a GPU, because {mode}")
    room = int(len(gpus) / per_job + 1e-9)
    if room < (jobs or 1):
        needed = f"{jobs or 1} runs at a time need {(jobs or 1) * per_job:g} GPUs with {per_job:g} each"
        less = "reduce --jobs or --gpus_per_job (0.5 for two runs on a GPU, 0 for none)"
        raise ValueError(f"{needed}, but this machine has {len(gpus)}: {less}")
    jobs = jobs or room
    if per_job < 1:
        return [gpus[job % len(gpus)] for job in range(jobs)]
    whole = int(per_job)
    return [",".join(gpus[job * whole : (job + 1) * whole]) for job in range(jobs)]


def exclusive_gpus() -> bool:
    """Return whether the driver allows only one process per GPU."""
    return "Exclusive_Process" in _ask("--query-gpu=compute_mode", FORMAT)


def gpu_memory() -> list[tuple[str, float, float]]:
    """Return the name, the memory and the free memory in GiB of each GPU that the driver lists."""
    rows = [line.split(", ") for line in _ask("--query-gpu=name,memory.total,memory.free", FORMAT).splitlines()]
    return [(row[0], float(row[1]) / 1024, float(row[2]) / 1024) for row in rows if row[-1].strip().isdigit()]
