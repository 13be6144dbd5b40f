"""Each of ten inserted faults is detected by the check for its kind."""

from pathlib import Path

import pytest

from tests.conformance.mutants import MUTANTS
from tests.conformance.on_device import on_device
from tests.conformance.runs import written
from tests.conformance.test_host_syncs import unexplained
from tests.conformance.test_simulated_device import SHORT


@pytest.mark.nightly
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_found(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    more = {**SHORT, "trainer.devices": mutant.ranks} | ({"trainer.strategy": "ddp"} if mutant.ranks > 1 else {})
    fit = ("fit", "--config", written(mutant.method, tmp_path, more), "--run_directory", tmp_path / "run")
    if mutant.command != "fit":
        on_device(fit)
        on_device((mutant.command, "--resume", tmp_path / "run"), mutant=name, fails=mutant.says)
    elif mutant.says == "item":
        printed = on_device(fit, mutant=name)
        waits = unexplained(printed)
        assert any(kind == mutant.says and place.startswith(mutant.file) for kind, place in waits), waits
    else:
        on_device(fit, ranks=mutant.ranks, mutant=name, fails=mutant.says)


def test_each_fault_can_be_seeded() -> None:
    from tests.command import ROOT

    for mutant in MUTANTS.values():
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant
