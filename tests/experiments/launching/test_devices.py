import subprocess
from pathlib import Path

import pytest

from experiments.launching import devices
from experiments.run_request import load_experiments
from tests.experiments.conftest import Config

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d1a0d9e-0000-1111-2222-333344445555)
  MIG 3g.20gb     Device  0: (UUID: MIG-a1)
  MIG 3g.20gb     Device  1: (UUID: MIG-a2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)
  MIG 1g.5gb      Device  0: (UUID: MIG-GPU-b/7/0)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-c)
"""


def test_instances_stand_for_the_gpu_that_is_divided_into_them() -> None:
    assert devices.listed_gpus(LISTED) == ["MIG-a1", "MIG-a2", "MIG-GPU-b/7/0", "GPU-c"]
    assert devices.listed_gpus("NVIDIA-SMI has failed because it could not communicate with the driver.") == []


@pytest.mark.parametrize(
    ("given", "seen"),
    [("0,2", ["0", "2"]), (" MIG-a1 ", ["MIG-a1"]), ("", []), ("-1", []), ("1,-1,0", ["1"]), ("NoDevFiles", [])],
)
def test_what_this_process_may_see_is_what_its_runs_may(
    given: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert devices.visible_gpus() == seen


def test_the_driver_is_asked_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.visible_gpus() == []
    assert not devices.exclusive_gpus()
    (tmp_path / "nvidia-smi").write_text(
        f"#!/bin/sh\nif [ $1 = -L ]; then echo '{LISTED}'; else echo 'Default\nExclusive_Process'; fi"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert len(devices.visible_gpus()) == 4
    assert devices.exclusive_gpus()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9")
    assert devices.visible_gpus() == []
    assert subprocess.run([str(tmp_path / "nvidia-smi")]).returncode == 9


@pytest.mark.parametrize(
    ("jobs", "per_job", "dealt"),
    [
        (None, 1, ["a", "b", "c", "d"]),
        (2, 1, ["a", "b"]),
        (None, 2, ["a,b", "c,d"]),
        (1, 3, ["a,b,c"]),
        (6, 0.5, ["a", "b", "c", "d", "a", "b"]),
        (None, 0.5, ["a", "b", "c", "d"] * 2),
    ],
)
def test_gpus_are_dealt_out(jobs: int | None, per_job: float, dealt: list[str]) -> None:
    assert devices.shares("abcd", jobs, per_job) == dealt


@pytest.mark.parametrize(
    ("gpus", "jobs", "per_job", "exclusive", "said"),
    [
        ("ab", 5, 0.5, False, "5 runs at a time need 2.5 GPUs with 0.5 each, but this machine has 2"),
        ("ab", 2, 0.5, True, "runs cannot share a GPU, because a GPU of this machine is in compute mode Exclusive"),
        (["MIG-a", "MIG-b"], 1, 2, False, "a process can use one MIG instance"),
    ],
)
def test_what_there_is_not_is_refused(gpus: str, jobs: int, per_job: float, exclusive: bool, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        devices.shares(gpus, jobs, per_job, exclusive)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ((), 1),
        (("--trainer.devices", "4"), 4),
        (("--trainer.devices=[0, 3]",), 2),
        (("--trainer.devices", "auto"), 1),
        (("--trainer.devices", "4", "--trainer.accelerator", "cpu"), 0),
        (("--config", "LAYER"), 8),
        (("--config=LAYER", "--trainer.devices", "2"), 2),
    ],
)
def test_a_configuration_says_how_many_gpus_a_run_takes(
    overrides: tuple[str, ...], wanted: int, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "layer.yaml").write_text("trainer: {devices: 8}")
    given = [each.replace("LAYER", str(tmp_path / "layer.yaml")) for each in overrides]
    assert devices.gpus_wanted(load_experiments([config("a", start=0.9)], given)) == wanted
