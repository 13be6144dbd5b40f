"""Replaces sbatch, srun, sacct and scancel, depending on the name of the call; array jobs are local processes.

The folder `STAND_IN_SLURM` stores their state: `calls`, `<job>.sh`, `<job>_<index>.pid`, and `.state` after a job is
cancelled.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PLACE = Path(os.environ["STAND_IN_SLURM"])


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    job = 100 + len(list(PLACE.glob("*.sh")))
    (PLACE / f"{job}.sh").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for index in range(int(array[1]) + 1) if array else [None]:
        name = f"{job}_{index}" if array else str(job)
        own = {"SLURM_JOB_ID": str(job), "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "noiseworks", "SLURM_PROCID": "0"}
        if array:
            own |= {"SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(index)}
        process = subprocess.Popen(
            ["bash", "-c", f"sleep 0.3; bash {PLACE}/{job}.sh"],
            env={**os.environ, **own},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        (PLACE / f"{name}.pid").write_text(str(process.pid))
    print(f"Submitted batch job {job}")


def srun(*arguments: str) -> None:
    command = list(arguments)
    while command[0].startswith("-"):
        del command[: 1 if command[0] == "--unbuffered" else 2]
    log = os.open(PLACE / "srun.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execvp(command[0], command)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sacct(*arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in sorted(PLACE.glob("*.pid")):
        ended = path.with_suffix(".state")
        state = ended.read_text() if ended.exists() else "RUNNING" if alive(int(path.read_text())) else "COMPLETED"
        print(f"{path.stem}|{state}|node1")


def scancel(*arguments: str) -> None:
    name = next(each for each in arguments if not each.startswith("-"))
    pid = int((PLACE / f"{name}.pid").read_text())
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
            time.sleep(0.2)
    (PLACE / f"{name}.state").write_text("CANCELLED by 0")


if __name__ == "__main__":
    called = Path(sys.argv[0]).name
    with (PLACE / "calls").open("a") as calls:
        print(called, *sys.argv[1:], file=calls)
    {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scancel": scancel}[called](*sys.argv[1:])
