"""Runs end as they should on a device that is not the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.conformance.on_device import on_device
from tests.conformance.runs import methods, written

SHORT = {
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 2,
    "trainer.inference_mode": False,  # the device's tensors are none of inference
}
UNKNOWN = {"fractional_sde_videos"}  # torch.func.jvp of convolutions' features ends the interpreter on this device
MIXED = """
import torch
from tests.conformance import simulated_device
simulated_device.register()
there = torch.tensor([1.0, 2.0, 3.0], device="simulated:0")
here, first = torch.ones(3), torch.zeros(1, dtype=torch.int64)
for mixed in (
    lambda: here + there,
    lambda: here * there.sum(),
    lambda: here[first.to(there.device)],
    lambda: there.numpy(),
    lambda: torch.rand(3, generator=torch.Generator(there.device)),
    lambda: torch.rand(3, device=there.device, generator=torch.Generator()),
    lambda: torch.nn.Linear(3, 2).to(there.device)(here),
):
    try:
        mixed()
    except RuntimeError:
        continue
    raise AssertionError("nothing was raised")
assert (there * torch.tensor(2.0) + there[first]).cpu().tolist() == [3.0, 5.0, 7.0]
weight = there.clone().requires_grad_()
weight.square().sum().backward()
assert weight.grad.device == there.device and weight.grad.tolist() == [2.0, 4.0, 6.0]
"""


def test_what_cuda_refuses_is_refused() -> None:
    run = subprocess.run([sys.executable, "-c", MIXED], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_pictures_are_drawn_where_training_has_ended(tmp_path: Path) -> None:
    names = ("adele", "annotation_efficient")
    on_device(
        *(("fit", "--config", written(name, tmp_path, SHORT), "--run_directory", tmp_path / name) for name in names)
    )
    for name in names:
        assert list((tmp_path / name / "figures").glob("*.png"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(methods().keys() - UNKNOWN))
def test_a_demo_trains_and_is_tested(name: str, tmp_path: Path) -> None:
    fit = ("fit", "--config", written(name, tmp_path, SHORT), "--run_directory", tmp_path / name)
    test = ("test", "--resume", tmp_path / name)
    on_device(fit, *([test] if methods()[name].tests else []))
