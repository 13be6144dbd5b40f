"""Two ranks over NCCL give the same result as one; with a single GPU, one rank over NCCL equals a run without NCCL.

The runs use float64 with all random draws enabled, like the runs with two CPU processes
(tests/distributed/test_methods.py). Ranks are forked from this process, which therefore must not initialise CUDA.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.attempts import attempt, sentence
from tests.conformance.runs import methods, state, written
from tests.gpu.place import Place, largest_difference
from tests.two_processes import in_two_processes

TOLERANCE = 1e-8
KEPT_ELSEWHERE = {"callbacks", "loops", "metrics_table"}  # results, counts and tables, which are not compared


@pytest.mark.gpu(minutes=4)
@pytest.mark.parametrize("name", [name for name, method in methods().items() if not method.alone])
def test_ranks(name: str, at: Place, tmp_path: Path) -> None:
    """Agreement of NCCL ranks with a single process."""
    if at.rehearse and name != "elr":
        pytest.skip("a rehearsal compares one demo")
    count = at.of(min(2, torch.cuda.device_count()), 2)
    label = f"{name}, {'two ranks' if count == 2 else 'one rank'} over {at.of('NCCL', 'gloo')}"
    method, expected = methods()[name], f"<= {TOLERANCE:g}"
    common = {"trainer.precision": "64-true", "trainer.accelerator": at.accelerator}
    path = written(name, tmp_path, {**method.alike, **common, **at.of({}, {"trainer.max_epochs": 1})})
    alone = ("--trainer.devices", "1", "--trainer.strategy", "auto")
    shared = ("--trainer.devices", str(count), "--trainer.strategy", method.strategy)
    for which, options, processes in (("one", alone, 1), ("many", shared, count)):
        command = ("fit", "--config", path, "--run_directory", tmp_path / which, *options)
        results: list[Any] = in_two_processes(attempt, *command, count=processes)
        if failed := [said for status, said in results if status]:
            return at.keep(label, f"{which}: {sentence(failed[0])}", expected, False)
    one, many = (
        {key: value for key, value in state(tmp_path / which).items() if key not in KEPT_ELSEWHERE}
        for which in ("one", "many")
    )
    difference = largest_difference(one, many)
    at.keep(label, f"largest difference {difference:.1e}", expected, difference <= TOLERANCE)
