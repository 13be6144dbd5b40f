"""Two nodes of a Ray cluster, simulated on this machine."""

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import commands
from tests.command import ROOT
from tests.experiments.conftest import Config, Journal, Rejected
from tests.experiments.launching.test_launchers import sweep


@pytest.mark.nightly
def test_ray_gives_what_this_machine_gives_on_two_nodes(
    config: Config, fit: list[str], journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    here, there = tmp_path / "here", tmp_path / "there"
    assert commands.run("compare", sweep(config, here), fit) == 1
    node = {"num_cpus": 1, "num_gpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "env_vars": {"NODE": "first"}})
    try:
        cluster.add_node(**node, env_vars={"NODE": "second"})
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        capsys.readouterr()
        assert commands.run("compare", sweep(config, there, "--launcher", "ray"), fit) == 1
        for name in ("runs.csv", "summary.csv"):
            assert (here / name).read_bytes() == (there / name).read_bytes()
        assert "a, seed 2 failed (exit status 3)" in capsys.readouterr().out
        assert commands.run("compare", sweep(config, tmp_path / "none", "--launcher", "ray", "--jobs", "3"), fit) == 2
        assert "3 runs at a time need 3 CPUs with 1 each, but the Ray cluster has 2" in capsys.readouterr().err
        more = ["--launcher", "ray", "--gpus_per_job", "2"]
        assert (
            commands.run("compare", [str(config("b", start=0.9)), "--seeds", "0", "--output", str(there), *more], fit)
            == 0
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert {line[3] for line in journal() if line[2] == "NODE"} == {"first", "second"}
    seen = [(line[0], line[3]) for line in journal() if line[2] == "CUDA_VISIBLE_DEVICES"]
    assert {len(gpus.split(",")) for name, gpus in seen if name != "b"} == {1}  # one per run by default
    assert seen[-1] == ("b", "0,1")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "auto"])
def test_a_cluster_that_is_not_there_is_named(
    address: str, config: Config, rejected: Rejected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        job_config = SimpleNamespace(JobConfig=lambda **_: None)

        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(address: str = "", **_: object) -> None:
            assert address == "auto", "Ray waits for minutes where nothing listens"
            raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", Absent)
    monkeypatch.setenv("RAY_ADDRESS", address)
    arguments = [str(config("a", start=0.9)), "--seeds", "0", "--output", str(tmp_path / "out"), "--launcher", "ray"]
    rejected("compare", arguments, f"there is no Ray cluster at {address}, which RAY_ADDRESS names")


OWN_CLUSTER = """
import time
from experiments.launching.ray_tasks import RayTasks
launcher = RayTasks(None, None, 1, 0, False)
import psutil
all_of_it = [psutil.Process(), *psutil.Process().children(recursive=True)]
listens = {c.laddr.ip for p in all_of_it for c in p.net_connections("inet") if c.status == "LISTEN"}
print([p.pid for p in all_of_it], listens, sep=";", flush=True)
time.sleep(600)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_new_cluster_listens_to_this_machine_alone_and_ends_with_the_process(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = subprocess.Popen([sys.executable, "-c", OWN_CLUSTER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    pids, addresses = process.stdout.readline().split(";")
    assert set(ast.literal_eval(addresses)) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    process.send_signal(number)
    process.wait()
    deadline = time.monotonic() + 30
    left = ast.literal_eval(pids)
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert left == []
