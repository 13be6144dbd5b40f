"""Each line of the cluster commands in README and docs/ runs on two nodes, one of which is killed.

The test uses one machine, with one CPU process per node. In the commands, words that depend on the machines are
replaced; each of these words must occur.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.command import ROOT, environment
from tests.conformance.runs import assert_alike, rows, state, tables
from tests.conformance.runs import run as here

pytestmark = pytest.mark.nightly

# 1,170 training images in global batches of 101: 12 steps per epoch, and a checkpoint within each epoch.
CUT = (
    *("--trainer.max_epochs", "15", "--trainer.precision", "64-true", "--checkpoint.every_n_steps", "7"),
    *("--data.batch_size", "101", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.accelerator", "cpu", "--test_after_fit", "true", "--checkpoint.also_test_best", "false"),
)
DEMO = {"configs/elr/cifar10.yaml": "configs/elr/demo.yaml"}
SRUN = """#!/bin/bash
# Stands in for srun: one task on each of two nodes.
for task in 0 1; do
    SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" $CUT & tasks+=($!); echo $! > $PIDS/$task
done
status=0
for task in "${tasks[@]}"; do wait $task || status=$?; done
exit $status
"""
Script = Callable[[str], subprocess.Popen[str]]


def lines_of(page: str, begin: str, words: Mapping[str, str]) -> str:
    """Return the lines of a block on a page, from the line with a given beginning up to an empty line or the end."""
    text = (ROOT / page).read_text()
    assert text.count(f"\n{begin}") == 1, begin
    found = begin + text.split(f"\n{begin}")[1]
    found = found.split("\n\n")[0].split("\n```")[0]
    for word, other in words.items():
        assert word in found, f"{page} no longer says {word!r}"
        found = found.replace(word, other)
    return found


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    here("fit", "--config", "configs/elr/demo.yaml", *CUT, "--run_directory", directory)
    return directory


def assert_same_run(one: Path, two: Path) -> None:
    """Compare weights, targets and tables of two runs."""
    first, second = state(one), state(two)
    for key in ("state_dict", "targets"):
        assert_alike(first[key], second[key], key, 1e-10)
    assert tables(one).keys() == tables(two).keys()
    for name, table in tables(one).items():
        for row, other in zip(rows(table), rows(tables(two)[name]), strict=True):
            assert other == pytest.approx(row, abs=1e-6, nan_ok=True), name


def free_port() -> int:
    """Find a free port that SLURM jobs use: 15000 plus the last four digits of the job id."""
    for port in range(15000 + os.getpid() % 5000, 25000):
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """Start a script in a directory that resembles a checkout, on a machine with torchrun, srun and scontrol."""
    commands = tmp_path / "bin"
    (tmp_path / "pids").mkdir()
    commands.mkdir()
    for name, text in {
        "python": f'#!/bin/bash\nexec {sys.executable} "$@"\n',
        "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol\n',
        "srun": SRUN,
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    for name in ("train.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    variables = environment() | {"PATH": f"{commands}:{os.environ['PATH']}", "PIDS": str(tmp_path / "pids")}
    job = f"1{free_port() - 15000:04d}"
    variables |= {"SLURM_JOB_ID": job, "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    variables |= {"SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NODELIST": "127.0.0.1"}
    started = []

    def start(lines: str) -> subprocess.Popen[str]:
        if "srun" not in lines:
            own = {name: value for name, value in variables.items() if not name.startswith("SLURM_")}
        else:
            own = variables | {"CUT": " ".join(CUT)}
        started.append(
            subprocess.Popen(
                ["bash", "-c", lines],
                cwd=tmp_path,
                env=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()
    for left in workers(tmp_path):  # the processes of torchrun are in separate process groups
        os.kill(left, signal.SIGKILL)


def wait_for(file: Path, *processes: subprocess.Popen[str]) -> None:
    """Wait until a run has saved its state."""
    deadline = time.monotonic() + 300
    while not file.is_file():
        assert time.monotonic() < deadline, f"{file} was not written"
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
        time.sleep(0.02)


def finished(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for processes that must succeed."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs[0]
    return outputs


def workers(run: Path, launcher: int | None = None) -> list[int]:
    """Find the training processes of a run directory: all of them, or those of one launcher."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        trains = any(word.startswith(str(run)) for word in words) and "torch.distributed.run" not in words
        if trains and launcher in (None, parent):
            found.append(int(process.name))
    return sorted(found)


SMALL = {**DEMO, "--trainer.devices 8": "--trainer.devices 1"}
SLURM = {
    **SMALL,
    "source .venv/bin/activate": "",
    "|| exit 1": "--trainer.accelerator cpu || exit 1",
}
SIGNALS = {"killed": signal.SIGKILL, "told": signal.SIGUSR1, "preempted": signal.SIGTERM}


@pytest.mark.parametrize("end", SIGNALS)
def test_a_slurm_job_that_loses_a_node_or_its_time_goes_on_by_the_same_script(
    end: str, one_process: Path, script: Script, tmp_path: Path
) -> None:
    lines = lines_of("docs/machines.md", "#!/bin/bash", SLURM)
    first = script(lines)
    runs = tmp_path / "runs" / "elr" / "cifar10"
    deadline = time.monotonic() + 300
    while not list(runs.glob("job-*/checkpoints/step.ckpt")):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.02)
    (run,) = runs.iterdir()
    tasks = [int((tmp_path / "pids" / task).read_text()) for task in "01"]
    assert "#SBATCH --signal=USR1@120" in lines
    for task in tasks[1:] if end == "killed" else tasks:
        os.kill(task, SIGNALS[end])
    output, _ = first.communicate(timeout=120)
    assert first.returncode != 0, output
    assert not (run / "test_metrics.csv").exists(), "the run ended before it was told to"
    job = run.name.removeprefix("job-")
    assert (tmp_path / "scontrol").is_file() == (end == "told"), output
    assert end != "told" or (tmp_path / "scontrol").read_text() == f"requeue {job}\n"
    finished(script(lines))
    assert_same_run(one_process, run)


TORCHRUN = "torchrun --nnodes 2 --nproc_per_node 8 --node_rank 0 --master_addr HOST --master_port 29500"


def test_a_torchrun_job_that_loses_a_node_goes_on_with_resume(
    one_process: Path, script: Script, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def nodes(*more: str) -> list[subprocess.Popen[str]]:
        words = {**SMALL, "--nproc_per_node 8": "--nproc_per_node 1", "HOST": "127.0.0.1", "29500": str(free_port())}
        begin = {"--node_rank 0": "--node_rank RANK"}
        line = lines_of("README.md", TORCHRUN, {**words, **begin})
        if "--resume" in more:
            line = line.replace("--config configs/elr/demo.yaml --config configs/trainer/multi_node.yaml", "")
        return [script(f"exec {line.replace('RANK', str(rank))} {' '.join([*CUT, *more])}") for rank in range(2)]

    first, second = nodes("--run_directory", str(run))
    wait_for(run / "checkpoints" / "step.ckpt", first, second)
    for process in (second.pid, *workers(run, second.pid)):
        os.kill(process, signal.SIGKILL)
    output, _ = first.communicate(timeout=120)
    assert first.returncode != 0, output
    assert not (run / "test_metrics.csv").exists()
    finished(*nodes("--resume", str(run)))
    assert_same_run(one_process, run)


ELASTIC = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --nproc_per_node 8 --max_restarts 3"


@pytest.mark.parametrize("lost", [0, 1])
def test_torchrun_restarts_what_a_process_was_lost_of_and_it_goes_on(
    lost: int, one_process: Path, script: Script, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = {**DEMO, "--nproc_per_node 8": "--nproc_per_node 2", "--trainer.devices 8": "--trainer.devices 2"}
    line = lines_of("docs/clusters.md", ELASTIC, words | {"runs/elr/cifar10/JOB": str(run)})
    node = script(f"exec env {line} {' '.join(CUT)}")
    wait_for(run / "checkpoints" / "step.ckpt", node)
    training = workers(run)
    assert len(training) == 2
    os.kill(training[lost], signal.SIGKILL)
    (output,) = finished(node)
    assert output.count("Restoring states from the checkpoint path") == 2, output  # for resuming and for testing
    assert_same_run(one_process, run)


OVER_NODES = "--nnodes 2 --rdzv_backend c10d --rdzv_endpoint HOST:29500 --rdzv_id JOB"


def test_two_nodes_go_on_where_one_of_them_is_restarted_late(one_process: Path, script: Script, tmp_path: Path) -> None:
    """The rank that returns first still knows the dead rank's address, and must not connect to it."""
    run = tmp_path / "run"
    assert f"`{OVER_NODES}` in place of `--standalone`" in (ROOT / "docs/clusters.md").read_text()
    nodes = OVER_NODES.replace("HOST:29500", f"127.0.0.1:{free_port()}")
    words = {**DEMO, "--nproc_per_node 8": "--nproc_per_node 1", "--trainer.devices 8": "--trainer.devices 1"}
    words |= {"--standalone": nodes, "configs/trainer/ddp.yaml": "configs/trainer/multi_node.yaml"}
    line = lines_of("docs/clusters.md", ELASTIC, words | {"runs/elr/cifar10/JOB": str(run)})
    first, second = (script(f"exec env {line} {' '.join(CUT)}") for _ in range(2))
    wait_for(run / "checkpoints" / "step.ckpt", first, second)
    (lost,) = workers(run, second.pid)
    os.kill(lost, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (late := workers(run, second.pid)) in ([], [lost]):
        assert time.monotonic() < deadline, "torchrun restarted nothing"
        time.sleep(0.02)
    os.kill(late[0], signal.SIGSTOP)
    time.sleep(15)  # meanwhile, the other node has imported everything, and joins
    os.kill(late[0], signal.SIGCONT)
    finished(first, second)
    assert_same_run(one_process, run)
