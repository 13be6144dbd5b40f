"""Two ranks over NCCL give the same result as one; with a single GPU, one rank over NCCL equals a run without NCCL.

The runs use float64 with all random draws enabled, like the runs with two CPU processes
(tests/distributed/test_methods.py). Ranks are forked from this process, which therefore must not initialise CUDA.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, state, written
from tests.gpu.place import Place, Row, largest_difference
from tests.two_processes import in_two_processes

FIRST = ("elr", "monna", "consistency", "score_sde", "adele", "lsa", "cbsn", "wta_crs", "diffusion_finetuning")
"""Methods that are checked first; each exchanges different data between ranks."""
TOLERANCE = 1e-8
KEPT_ELSEWHERE = {"callbacks", "loops", "metrics_table"}  # results, counts and tables, which are not compared


def ranks(at: Place) -> None:
    """Check the rows one after the other, until no time is left."""
    count = at.of(min(2, max(1, at.gpus)), 2)
    rows = methods()
    names = [name for name in (*FIRST, *sorted(rows.keys() - set(FIRST))) if not rows[name].alone]
    over = f"{'two ranks' if count == 2 else 'one rank'} over {at.of('NCCL', 'gloo')}"
    for name, label in at.pending({name: f"{name}, {over}" for name in names[: at.of(len(names), 1)]}):
        with tempfile.TemporaryDirectory() as directory:
            at.keep(compared(name, label, count, at, Path(directory)))


def compared(name: str, label: str, count: int, at: Place, directory: Path) -> Row:
    """Train a method's demo on one device, and on `count` ranks."""
    method, expected = methods()[name], f"<= {TOLERANCE:g}"
    common = {"trainer.precision": "64-true", "trainer.accelerator": at.accelerator}
    path = written(name, directory, {**method.alike, **common, **at.of({}, {"trainer.max_epochs": 1})})
    alone = ("--trainer.devices", "1", "--trainer.strategy", "auto")
    shared = ("--trainer.devices", str(count), "--trainer.strategy", method.strategy)
    for which, options, processes in (("one", alone, 1), ("many", shared, count)):
        command = ("fit", "--config", path, "--run_directory", directory / which, *options)
        results: list[Any] = in_two_processes(attempt, *command, count=processes)
        if failed := [said for status, said in results if status]:
            return Row(label, f"{which}: {sentence(failed[0])}", expected, False)
    one, many = (
        {key: value for key, value in state(directory / which).items() if key not in KEPT_ELSEWHERE}
        for which in ("one", "many")
    )
    difference = largest_difference(one, many)
    return Row(label, f"largest difference {difference:.1e}", expected, difference <= TOLERANCE)
