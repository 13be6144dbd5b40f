"""`tune` against a grid of as many runs. `claim` compares single configurations, and cannot express this statement.

Stated before the first run: 16 trials choose settings whose test accuracy, over seeds 0 to 2, is on average higher by
at least 0.005 than that of the settings that a grid of 4 x 4 chooses over the same ranges. Both choose by the
validation accuracy on noisy labels, and pruning makes the trials cheaper than the grid.

The first run did not confirm the statement on the test accuracy (-0.013). See docs/sweeps.md.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import train
from experiments.results import read_csv, read_curves, read_test_metrics
from tests.command import ROOT

pytestmark = pytest.mark.benchmark
DEMO = str(ROOT / "configs/elr/demo.yaml")
SHORT = ["--trainer.max_epochs", "20"]
SEEDS = 3
STRENGTH, RATE = np.geomspace(0.1, 10, 4), np.geomspace(1e-3, 1, 4)


def choose_by_grid(folder: Path, seed: int) -> tuple[float, float, int]:
    """Return the validation accuracy of the best run, its test accuracy, and the number of epochs of all runs."""
    values = {"model.strength": STRENGTH, "model.optimizer.lr": RATE}
    vary = [text for key, own in values.items() for text in ("--vary", f"{key}={','.join(f'{v:.4g}' for v in own)}")]
    assert train.main(["compare", DEMO, *vary, "--seeds", str(seed), "--output", str(folder), "--", *SHORT]) == 0
    runs = [path.parent for path in folder.glob("*/*/seed_*/metrics.csv")]
    assert len(runs) == 16
    curves = {run: read_curves(run / "metrics.csv")["val/accuracy"] for run in runs}
    best = max(runs, key=lambda run: curves[run][max(curves[run])])
    tested = read_test_metrics(best / "test_metrics.csv")["test/accuracy"]
    return curves[best][max(curves[best])], tested, sum(map(len, curves.values()))


def choose_by_trials(folder: Path, seed: int) -> tuple[float, float, int]:
    """Return the same for `tune`, whose best settings are trained again to test them."""
    searches = ["--search", "model.strength=log:0.1:10", "--search", "model.optimizer.lr=log:1e-3:1"]
    given = [*searches, "--metric", "val/accuracy", "--trials", "16", "--seed", str(seed), "--output", str(folder)]
    assert train.main(["tune", DEMO, *given, "--", *SHORT]) == 0
    layers = ["--config", DEMO, "--config", str(folder / "best.yaml"), "--seed_everything", str(seed), *SHORT]
    assert train.main(["fit", *layers, "--run_directory", str(folder / "best"), "--test_after_fit", "true"]) == 0
    rows = read_csv(folder / "trials.csv")
    best = max(float(row["val/accuracy"]) for row in rows if row["state"] == "complete")
    tested = read_test_metrics(folder / "best/test_metrics.csv")["test/accuracy"]
    return best, tested, sum(int(row["epochs"]) for row in rows)


def test_trials_choose_better_settings_than_a_grid(report: Callable[[str, float, str], None], tmp_path: Path) -> None:
    grid = np.array([choose_by_grid(tmp_path / f"grid_{seed}", seed) for seed in range(SEEDS)])
    trials = np.array([choose_by_trials(tmp_path / f"tune_{seed}", seed) for seed in range(SEEDS)])
    validation, tested, _ = (trials - grid).mean(0)
    of = "16 trials of tune less a 4 x 4 grid, strength and learning rate of ELR on digits, mean of 3 seeds"
    report(f"test accuracy of the chosen settings: {of}", float(tested), ">= 0.005")
    report("the same of the validation accuracy, on noisy labels", float(validation), "-")
    report("epochs of these trials over those of the grid", trials[:, 2].sum() / grid[:, 2].sum(), "<= 0.9")
    print("grid: validation accuracy, test accuracy, epochs", grid, "tune", trials, sep="\n")
