import csv
from pathlib import Path

import pytest

import train
from callbacks.trials import LIMITS
from experiments.results import read_curves, read_test_metrics

TRIAL = "{class_path: callbacks.trials.PruneTrial, init_args: {metric: val/accuracy, mode: max}}"
DEMO = ["--config", "configs/elr/demo.yaml", "--trainer.limit_train_batches", "1", "--trainer.callbacks+", TRIAL]


def fit(directory: Path, *more: str) -> int:
    return train.main(["fit", *DEMO, "--run_directory", str(directory), "--trainer.max_epochs", "4", *more])


def epochs(directory: Path) -> list[int]:
    return sorted(read_curves(directory / "metrics.csv")["val/accuracy"])


@pytest.mark.parametrize(("limit", "ends"), [(0.0, 4), (1.1, 2)])
def test_a_trial_ends_at_the_epoch_in_which_it_is_worse_than_the_limit(limit: float, ends: int, tmp_path: Path) -> None:
    with (tmp_path / LIMITS).open("w") as file:
        csv.writer(file).writerows([("epoch", "limit"), (1, limit)])
    assert fit(tmp_path) == 0
    assert epochs(tmp_path) == list(range(ends))
    # the demo adds noise to its labels, and therefore to those of the validation
    marks = read_test_metrics(tmp_path / "trained.csv")
    assert marks == {"pruned": float(ends < 4), "noisy_validation_labels": 1.0}
    if ends < 4:
        (tmp_path / "trained.csv").unlink()  # as if it had been killed before it wrote this file
        assert train.main(["fit", "--resume", str(tmp_path)]) == 0
        assert epochs(tmp_path) == list(range(ends))
        assert read_test_metrics(tmp_path / "trained.csv") == marks


def test_without_limits_training_is_complete_and_data_without_noise_are_said_to_have_none(tmp_path: Path) -> None:
    assert fit(tmp_path, "--data.label_noise", "null", "--trainer.max_epochs", "1") == 0
    assert read_test_metrics(tmp_path / "trained.csv") == {"pruned": 0.0, "noisy_validation_labels": 0.0}
