"""All claims hold. These tests take minutes: `pytest -m claim`. `make claims` also writes the pages.

All runs are repeated, unless NOISEWORKS_CLAIMS names a folder of earlier runs: finished runs in this folder are judged
without repeating them. `make claims` keeps its runs in `runs/claims`.
"""

import os
from pathlib import Path

import pytest

import train
from tests.command import ROOT

FILES = sorted((ROOT / "configs").glob("*/claim.yaml"))


@pytest.mark.claim
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_it_holds(file: Path, tmp_path: Path) -> None:
    kept = os.environ.get("NOISEWORKS_CLAIMS")
    output = Path(kept, file.parent.name) if kept else tmp_path
    assert train.main(["claim", str(file), "--output", str(output)]) == 0


def test_each_method_with_a_demo_and_a_baseline_states_a_claim() -> None:
    stated = {file.parent for file in FILES}
    compared = {path.parent for path in (ROOT / "configs").glob("*/demo_*.yaml")}
    assert compared - stated == set(), "a variant of a demo with which nothing is compared"
