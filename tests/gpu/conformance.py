"""Every demo trains, tests and predicts on the device, with the rows of tests/conformance."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden

from experiments.load_run import load_run
from experiments.run_request import cores
from tests.command import ROOT
from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, written
from tests.gpu.place import Place, Row, read_rows

PASSED = "fit, test and predict end well"
UNENDED = "it did not end"
LOST = 5
"""Exit status of a worker whose device can no longer be used."""


def short(at: Place) -> dict[str, object]:
    more: dict[str, object] = {"trainer.accelerator": at.accelerator, "trainer.devices": 1}
    return more | at.of({}, {"trainer.limit_train_batches": 2, "trainer.max_epochs": 1, "trainer.limit_val_batches": 1})


def checked(name: str, at: Place, directory: Path) -> str:
    """Train a demo, test it and predict; return an error message, or an empty string."""
    run, method = directory / "run", methods()[name]
    status, said = attempt("fit", "--config", written(name, directory, short(at)), "--run_directory", run)
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


def rows_of(at: Place) -> list[str]:
    """Return the names of the rows, or three of them in a rehearsal."""
    return at.of(sorted(methods()), ["elr", "monna", "noise2void"])


def work(at: Place, part: int, parts: int) -> int:
    """Check this worker's share of the remaining rows.

    Returns:
        Exit status: 0, or `LOST` if an error has made the device unusable, so that the process ends.
    """
    for name in rows_of(at)[part::parts]:
        if at.has(name):
            continue
        if at.left < 0:
            return 0
        at.keep(Row(name, UNENDED, PASSED, False))  # remains if this process dies
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            said = checked(name, at, Path(directory))
        at.keep(Row(name, said or f"{time.perf_counter() - start:.1f} s", PASSED, not said))
        if "CUDA error" in said or "out of memory" in said:
            return LOST
        if at.device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


def conformance(at: Place) -> None:
    """Check all rows in several processes that share the device; if one dies, a new one continues after its row."""
    at.forget(lambda row: row.figure == UNENDED)  # from a command that was stopped
    parts = at.of(max(1, min(6, cores() // 2)), 1)
    call = [sys.executable, "-m", "tests.gpu.conformance", str(at.folder), str(at.until), str(int(at.rehearse))]

    def begin(part: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*call, str(part), str(parts)], cwd=ROOT)

    workers = {part: begin(part) for part in range(parts)}
    try:
        while workers:
            time.sleep(0.5)
            for part, worker in list(workers.items()):
                if worker.poll() is None:
                    continue
                if worker.returncode and at.left > 0:
                    workers[part] = begin(part)
                else:
                    del workers[part]
    finally:
        for worker in workers.values():
            worker.kill()
    done = {row.name for row in read_rows(at.file)}
    if missing := [name for name in rows_of(at) if name not in done]:
        raise TimeoutError(f"{len(missing)} of {len(rows_of(at))} rows are missing, because the time limit was reached")


def main(arguments: Sequence[str]) -> int:
    folder, until, rehearse, part, parts = arguments
    at = Place(rehearse == "1", Path(folder), None, float(until), "conformance")
    return work(at, int(part), int(parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
