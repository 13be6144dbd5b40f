"""Runs complete as expected on a device other than the CPU."""

from pathlib import Path
from pydoc import locate

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from experiments.pages import replace_section, with_section
from tests.conformance.on_device import Command, on_device
from tests.conformance.runs import class_path, methods, written
from tests.conformance.test_host_syncs import PAGE, table, unexplained

SHORT = {
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 2,
    "trainer.inference_mode": False,  # device tensors are not inference tensors
}
FIT = {**SHORT, "trainer.limit_train_batches": 4, "trainer.log_every_n_steps": 1000}
ONE_BATCH = ("--trainer.limit_predict_batches", "1")
MIXED = """
import torch
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
    on_device(("-c", MIXED))


def test_pictures_are_drawn_where_training_has_ended(tmp_path: Path) -> None:
    names = ("adele", "annotation_efficient")
    on_device(
        *(("fit", "--config", written(name, tmp_path, SHORT), "--run_directory", tmp_path / name) for name in names)
    )
    for name in names:
        assert list((tmp_path / name / "figures").glob("*.png"))


def predicts(name: str) -> bool:
    return methods()[name].predicts and is_overridden(
        "predict_step", locate(class_path(methods()[name])), LightningModule
    )


def rest(name: str, directory: Path) -> list[Command]:
    """Return the `test` and `predict` command lines, as far as the row supports these commands."""
    test, predict = (("test", "--resume", directory), ("predict", "--resume", directory, *ONE_BATCH))
    return [*([test] if methods()[name].tests else []), *([predict] if predicts(name) else [])]


@pytest.fixture(scope="module")
def counted() -> dict[str, str]:
    """The output of each demo's `fit`, which the tests add."""
    return {}


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(methods()))
def test_a_demo_trains_and_is_tested(name: str, tmp_path: Path, counted: dict[str, str]) -> None:
    fit = ("fit", "--config", written(name, tmp_path, FIT), "--run_directory", tmp_path / name)
    counted[name] = on_device(fit, *rest(name, tmp_path / name))
    assert unexplained(counted[name]) == {}, "say in test_host_syncs.py why the step waits"


@pytest.mark.nightly
def test_the_table_of_what_steps_wait_for_is_written(counted: dict[str, str]) -> None:
    if counted.keys() != methods().keys():
        pytest.skip("not all demos were run")
    print(table(counted))
    if with_section(PAGE, "host syncs", text := table(counted)) != PAGE.read_text(encoding="utf-8"):
        replace_section(PAGE, "host syncs", text)
        raise AssertionError(f"{PAGE} was out of date, and is written")
