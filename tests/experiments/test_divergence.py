"""Diverged runs in comparisons and claims, if the configuration counts divergence as a result."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments import commands
from tests.experiments.conftest import Config, table


def test_a_diverged_run_is_no_failure_and_enters_no_mean(config: Config, fit: list[str], tmp_path: Path) -> None:
    a = config("a", start=0.9, width=8, diverges=4, stable_seeds=[1, 3])
    b = config("b", start=0.5, width=8, diverges=4)
    out = tmp_path / "out"
    assert commands.run("compare", [str(a), str(b), "--seeds", "0", "1", "2", "3", "--output", str(out)], fit) == 0
    accuracy = {row["config"]: row for row in table(out / "summary.csv") if row["metric"] == "test/accuracy"}
    assert float(accuracy["a"]["mean"]) == pytest.approx(0.92)
    assert [accuracy[name]["seeds"] for name in "ab"] == ["2", "0"]
    assert [accuracy[name]["diverged"] for name in "ab"] == ["2", "4"]
    assert accuracy["b"]["mean"] == ""
    text = (out / "summary.md").read_text()
    assert "| test/accuracy ↑ | 0.920 ± 0.014 (2 of 4 diverged) | diverged |" in text
    assert "| test/diverged ↓ | **0.50 ± 0.58** | 1 ± 0 |" in text
    values = {(r["config"], r["seed"], r["metric"]): r["value"] for r in table(out / "runs.csv")}
    assert values["a", "0", "test/diverged_step"] == "17.0"
    assert values["a", "0", "test/accuracy"] == ""
    assert ("b", "0", "test/accuracy") in values
    alone = tmp_path / "alone"
    assert commands.run("compare", [str(b), "--seeds", "0", "--output", str(alone)], fit) == 0
    assert "| test/diverged ↓ | 1 |" in (alone / "summary.md").read_text()


@pytest.mark.parametrize(("diverging", "seed"), [("demo", 0), ("demo_baseline", 1)])
def test_a_seed_that_diverged_leaves_no_pair_of_numbers(
    diverging: str, seed: int, config: Config, fit: list[str], tmp_path: Path
) -> None:
    starts = {"demo": 0.9, "demo_baseline": 0.5}
    for name, start in starts.items():
        own = {"width": 8, "diverges": 4, "stable_seeds": [1 - seed, 2]} if name == diverging else {}
        folder = config(name, start=start, **own).parent
    path, out = folder / "claim.yaml", tmp_path / "out"
    stated = {"paper": "It helps.", "method": "demo.yaml", "baseline": "demo_baseline.yaml", "metric": "test/accuracy"}
    path.write_text(yaml.safe_dump({**stated, "direction": "higher", "margin": 0.05, "seeds": [0, 1, 2]}))
    assert commands.run("claim", [str(path), "--output", str(out)], fit) == 1
    [row] = table(out / "claims.csv")
    assert (row["verdict"], row["difference"]) == ("does not hold", "")
    assert row["reason"] == f"{diverging}, seed {seed} diverged, so this pair has no difference"
    of = "method" if diverging == "demo" else "baseline"
    assert float(row[f"{of}_mean"]) == pytest.approx(starts[diverging] + 0.01 * np.mean([2, 1 - seed]))
