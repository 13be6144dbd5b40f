"""Launch runs as tasks of a Ray cluster: that at `RAY_ADDRESS`, one that runs on this machine, or a new one.

A Ray worker forks runs in the same way as `local`, so each worker imports modules only once. All nodes must share a
file system and find this package at the same path. Ray ends the tasks of a process that has died. If a comparison is
killed, its runs are therefore killed too.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

from experiments.launching.local import Local
from experiments.launching.run_queue import GRACE_SECONDS, Job
from experiments.run_request import PROJECT

CONNECT_SECONDS = 10.0
WORKER: dict[bool, Local] = {}
"""Launchers of this worker process, by the value of `no_fork`."""
WATCH = """
import os, sys
sys.path.insert(0, os.path.dirname(os.path.dirname(sys.argv[1])))
import psutil
sys.stdin.read()
own = dict(each.split(":") for each in sys.argv[2:])
living = [p for p in psutil.process_iter() if own.get(str(p.pid)) == str(p.create_time())]
for process in psutil.wait_procs(living, 5)[1]:
    process.kill()
"""
"""Script that ends a new cluster's processes when its owner ends or is killed. Otherwise, Ray's agents would remain."""


def run_job(job: Job, no_fork: bool) -> int:
    """Run one job in a Ray worker until it ends, and return its exit status."""
    if no_fork not in WORKER:
        WORKER[no_fork] = Local(no_fork=no_fork)
        WORKER[no_fork].begin(1, ())
    own = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS") if name in os.environ}
    process = WORKER[no_fork].process(job, own)
    try:
        while (status := process.poll()) is None:
            WORKER[no_fork].wait(0.1)
        return status
    finally:  # also if the task is cancelled
        if process.poll() is None:
            process.signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
        process.signal(signal.SIGKILL)


def _listens(address: str) -> bool:
    """Return whether `host:port` or `ray://host:port` accepts connections.

    Without this check, Ray would wait for minutes if the address accepts none.
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdigit():  # "auto" and other values that Ray interprets
        return True
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        return True
    return False


@contextlib.contextmanager
def _of_this_machine_alone() -> Iterator[None]:
    """Make a new cluster listen only on the loopback interface, so that other machines cannot reach the cluster.

    By default, Ray listens on all interfaces, and replaces the loopback address with a different address. It does
    neither if multi-node clusters are disabled. In processes that Ray starts, an environment variable disables
    multi-node clusters. This process has already read the variable, so a constant of Ray is changed here instead.
    """
    from ray._private import ray_constants as constants

    variable = {constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    with patch.dict(os.environ, variable), patch.object(constants, "ENABLE_RAY_CLUSTER", False):
        yield


class Task:
    """A run that was started as a Ray task."""

    waiting = False

    def __init__(self, engine: Any, reference: Any) -> None:
        self.engine = engine
        self.reference = reference
        self.said = ""
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None and self.engine.wait([self.reference], timeout=0)[0]:
            try:
                self._status = self.engine.get(self.reference)
            except Exception as error:  # the worker or node was lost, or the task was cancelled
                self.said = f"Ray: {' '.join(str(error).split())[:200]}"
                self._status = 1
        return self._status

    def signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            self.engine.cancel(self.reference, force=number == signal.SIGKILL)


class RayTasks:
    """Launch runs as Ray tasks.

    Args:
        jobs: maximum number of concurrent runs. None lets Ray decide.
        gpus: number of GPUs per run. None means `wanted` if the cluster has GPUs.
        cpus: number of CPU cores per run. None means one.
        wanted: number of GPUs per run that the configurations request.
        no_fork: whether to start each run as a new process.
    """

    def __init__(self, jobs: int | None, gpus: float | None, cpus: int | None, wanted: int, no_fork: bool) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError("--launcher ray needs Ray: pip install 'noiseworks[ray]'") from None
        self.ray = ray
        self.note = ""
        self.no_fork = no_fork
        self._watch: subprocess.Popen[str] | None = None
        self._own = not ray.is_initialized()
        if self._own:
            self._connect()
        total = ray.cluster_resources()
        if gpus is None:
            gpus = float(wanted) if total.get("GPU") else 0.0
        needs = {"CPU": float(cpus or 1), "GPU": gpus}
        for name, one in needs.items():
            if one * (jobs or 1) > total.get(name, 0.0):
                asked = f"{jobs or 1} runs at a time need {one * (jobs or 1):g} {name}s with {one:g} each"
                self.close()
                raise ValueError(f"{asked}, but the Ray cluster has {total.get(name, 0.0):g}")
        self.jobs = jobs
        self.task = ray.remote(run_job).options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)

    def _connect(self) -> None:
        paths = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        config = self.ray.job_config.JobConfig(
            _client_job=True
        )  # else, workers import from the working directory first
        options: dict[str, Any] = {
            "job_config": config,
            "runtime_env": {"env_vars": {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}},
            "log_to_driver": False,
        }
        given = os.environ.get("RAY_ADDRESS")
        absent = f"--launcher ray: there is no Ray cluster at {given}, which RAY_ADDRESS names"
        if given and not _listens(given):
            raise ValueError(absent)
        with contextlib.suppress(ConnectionError):
            self.ray.init(address=given or "auto", logging_level=logging.ERROR, **options)
            return
        if given:
            raise ValueError(absent)
        with _of_this_machine_alone():
            alone: dict[str, Any] = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
            self.ray.init(address="local", logging_level=logging.ERROR, **alone, **options)
        import psutil  # a dependency of Ray

        processes = [f"{each.pid}:{each.create_time()}" for each in psutil.Process().children(recursive=True)]
        command = [sys.executable, "-P", "-c", WATCH, psutil.__file__, *processes]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def begin(self, runs: int, locks: Sequence[int]) -> int:
        return min(self.jobs or runs, runs)

    def start(self, jobs: Sequence[Job]) -> list[Task]:
        return [Task(self.ray, self.task.remote(job, self.no_fork)) for job in jobs]

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        if self._own:
            self.ray.shutdown()
        if self._watch is not None:
            self._watch.communicate()
