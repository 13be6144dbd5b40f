"""Every demo trains, tests and predicts on the device, with the rows of tests/conformance."""

import time
from pathlib import Path

import pytest
from lightning.pytorch.utilities.model_helpers import is_overridden

from experiments.load_run import load_run
from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, written
from tests.gpu.place import Place

REHEARSED = ("elr", "monna", "noise2void")


def checked(name: str, at: Place, directory: Path) -> str:
    """Train a demo, test it and predict; return an error message, or an empty string."""
    run, method = directory / "run", methods()[name]
    short: dict[str, object] = {"trainer.accelerator": at.accelerator, "trainer.devices": 1}
    short |= at.of({}, {"trainer.limit_train_batches": 2, "trainer.max_epochs": 1, "trainer.limit_val_batches": 1})
    status, said = attempt("fit", "--config", written(name, directory, short), "--run_directory", run)
    if status:
        return f"fit: {sentence(said)}"
    if method.tests:
        status, said = attempt("test", "--resume", run)
        if status:
            return f"test: {sentence(said)}"
    module, _ = load_run(run, "last")
    if method.predicts and is_overridden("predict_step", module):
        precision = "64-true" if method.double else "bf16-mixed"
        more = ("--trainer.precision", precision, "--trainer.limit_predict_batches", "1")
        status, said = attempt("predict", "--resume", run, *more)
        if status:
            return f"predict in {precision}: {sentence(said)}"
    return ""


@pytest.mark.gpu(minutes=4)
@pytest.mark.parametrize("name", sorted(methods()))
def test_demo(name: str, at: Place, tmp_path: Path) -> None:
    """Every demo trains, is tested and predicts."""
    if at.rehearse and name not in REHEARSED:
        pytest.skip("a rehearsal trains three demos")
    start = time.perf_counter()
    said = checked(name, at, tmp_path)
    at.keep(name, said or f"{time.perf_counter() - start:.1f} s", "fit, test and predict end well", not said)
