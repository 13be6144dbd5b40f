"""Launch runs as jobs of a SLURM array, with the package submitit. Each run is one job, whose state `sacct` reports.

A job that reaches its time limit or is preempted saves a checkpoint, and is requeued and resumed. If a comparison is
killed, its jobs continue to run, and repeating the command finds these jobs. Ctrl-C cancels all jobs. All nodes must
share a file system.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from datamodules.files.whole_files import write_text
from experiments.launching.local import start_process
from experiments.launching.preflight import OF_A_GROUP
from experiments.launching.run_queue import Job
from experiments.run_request import PROJECT

CLUSTER = "slurm"
"""Name of the submitit executor."""
NOTE = "slurm_job.json"
"""File in a run directory with the ID of its job."""
SHARED = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
"""Parameters that all submitit executors have in common. All other parameters are specific to SLURM."""
LIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "PREEMPTED")
REQUEUE_SECONDS = 20.0
SAVE_SECONDS = 60.0


class RunJob:
    """Callable that runs one job as a process on its node. It is pickled by submitit."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"process": None}

    def __call__(self, job: Job) -> int:
        environment = {name: value for name, value in os.environ.items() if not OF_A_GROUP.match(name)}
        command = [*job.command, *job.arguments]  # read now, because a requeued run has a checkpoint
        self.process = start_process(command, job.log, {**environment, "PYTHONUNBUFFERED": "1"}, ignored=signal.SIGUSR2)
        status = self.process.wait()
        if status in (128 + signal.SIGTERM, -signal.SIGTERM):
            time.sleep(REQUEUE_SECONDS)  # SLURM sends SIGTERM to all processes before the signal that requeues the job
        return status

    def checkpoint(self, job: Job) -> Any:
        """Save a checkpoint when the time limit is reached, and requeue the job."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SAVE_SECONDS)
        return DelayedSubmission(RunJob(), job)


class Submitted:
    """A run that was submitted as a job of the array."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.said = ""
        self._cancelled = False

    @property
    def waiting(self) -> bool:
        return self.job.state.upper() in ("PENDING", "REQUEUED", "CONFIGURING", "UNKNOWN")

    def poll(self) -> int | None:
        if self._cancelled:
            return -signal.SIGTERM
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception as error:  # submitit defines exception classes for failed jobs
            self.said = f"SLURM job {self.job.job_id}: {self.job.state}, {' '.join(str(error).split())[:200]}"
            return 1

    def signal(self, number: signal.Signals) -> None:
        if not self._cancelled and not self.job.done():
            self._cancelled = True
            self.job.cancel(check=False)


class Slurm:
    """Launch runs as SLURM jobs.

    Args:
        folder: folder for submitit's files.
        jobs: maximum number of concurrent runs. None lets SLURM decide.
        gpus: number of GPUs per run. None requests no GPUs.
        cpus: number of CPU cores per run. None requests no cores explicitly.
        parameters: additional sbatch parameters.
    """

    def __init__(
        self, folder: Path, jobs: int | None, gpus: float | None, cpus: int | None, parameters: Mapping[str, str]
    ) -> None:
        try:
            from submitit import SlurmExecutor
        except ImportError:
            raise ValueError("--launcher slurm needs submitit: pip install 'noiseworks[slurm]'") from None
        if CLUSTER == "slurm" and not shutil.which("srun"):
            raise ValueError("--launcher slurm: srun is not installed, so this is not a node of a SLURM cluster")
        if gpus is not None and gpus != int(gpus):
            raise ValueError(f"--gpus_per_job {gpus:g}: SLURM allocates whole GPUs; only --launcher local shares them")
        allowed = {*SHARED, *SlurmExecutor._valid_parameters(), "max_num_timeout"}
        allowed -= {"nodes", "ntasks_per_node", "job_name", "array_parallelism", "time", "mem", "setup"}
        for key in parameters:
            if key not in allowed:
                raise ValueError(f"--slurm {key} must be one of {', '.join(sorted(allowed))}")
        if "timeout_min" not in parameters:
            raise ValueError("--slurm timeout_min is missing: set the minutes after which a job is requeued")
        asked = {key: yaml.safe_load(value) for key, value in parameters.items()}
        if type(asked["timeout_min"]) is not int or asked["timeout_min"] < 1:
            raise ValueError(f"--slurm timeout_min must be a whole number of minutes, got {asked['timeout_min']!r}")
        if gpus:
            asked["gpus_per_node"] = int(gpus)
        if cpus is not None:
            asked["cpus_per_task"] = cpus
        self.folder = folder.absolute()
        self.timeouts = asked.pop("max_num_timeout", None)
        self.parameters = {key if key in SHARED else f"slurm_{key}": value for key, value in asked.items()}
        if jobs is not None:
            self.parameters["slurm_array_parallelism"] = jobs
        self.note = ""

    def begin(self, runs: int, locks: Sequence[int]) -> int:
        return runs

    def start(self, jobs: Sequence[Job]) -> list[Submitted]:
        from submitit import AutoExecutor

        more = {} if self.timeouts is None else {"slurm_max_num_timeout": self.timeouts}
        executor = AutoExecutor(self.folder, cluster=CLUSTER, **more)
        executor.update_parameters(**{"name": "noiseworks", **self.parameters})
        live = self._live(jobs)
        new = [job for job in jobs if job not in live]
        # jobs inherit these variables: they import this package, and nothing from the working directory
        paths = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        try:
            with patch.dict(os.environ, PYTHONPATH=paths, PYTHONSAFEPATH="1"):
                submitted = executor.map_array(RunJob(), new) if new else []
        except Exception as error:  # submitit defines exception classes for sbatch errors
            raise OSError(f"SLURM rejected the jobs: {' '.join(str(error).split())}") from error
        for job, given in zip(new, submitted, strict=True):
            content = {"job": given.job_id, "folder": str(self.folder)}
            write_text(job.run.directory / NOTE, json.dumps(content) + "\n")
            live[job] = given
        if adopted := len(jobs) - len(new):
            self.note = f"{adopted} of the runs are already SLURM jobs, which continue"
        return [Submitted(live[job]) for job in jobs]

    def _live(self, jobs: Sequence[Job]) -> dict[Job, Any]:
        """Find unfinished jobs that an earlier comparison submitted."""
        from submitit import SlurmJob

        known: dict[Job, Any] = {}
        for job in jobs:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                note = json.loads((job.run.directory / NOTE).read_text(encoding="utf-8"))
                known[job] = SlurmJob(note["folder"], note["job"])
        if known and CLUSTER == "slurm":
            SlurmJob.watcher.update()  # calls sacct once for all jobs
        states = {job: given.watcher.get_state(given.job_id, mode="cache") for job, given in known.items()}
        return {job: known[job] for job, state in states.items() if state.split(" ")[0] in LIVE}

    def wait(self, seconds: float) -> None:
        time.sleep(max(seconds, 1.0) if CLUSTER == "slurm" else seconds)

    def close(self) -> None: ...
