"""Everything that is claimed holds. Runs for minutes: `pytest -m claim`; `make claims` does the same for the README."""

from pathlib import Path

import pytest

from experiments import claim
from tests.command import ROOT

FILES = sorted((ROOT / "configs").glob("*/claim.yaml"))


@pytest.mark.claim
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_it_holds(file: Path, tmp_path: Path) -> None:
    assert claim.main([str(file), "--output", str(tmp_path)]) == 0, (tmp_path / "claims.md").read_text()


def test_each_method_with_a_demo_and_a_baseline_states_a_claim() -> None:
    stated = {file.parent for file in FILES}
    compared = {path.parent for path in (ROOT / "configs").glob("*/demo_baseline.yaml")}
    assert compared - stated == set(), "a baseline with which nothing is compared"
