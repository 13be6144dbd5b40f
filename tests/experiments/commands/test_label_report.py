"""The audit of all labels by cross-validation. A stand-in for `train.py fit` judges the labels of a fold."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from callbacks.labels.measures import compare_with_labels, find_label_issues
from datamodules.corruptions.label_noise import FromCSV
from experiments import commands
from experiments.config_files import parse_yaml
from tests.command import ROOT

NAMES = ("cat", "dog", "owl")
FIT = """
import pathlib, shutil, sys
given = lambda flag: sys.argv[len(sys.argv) - sys.argv[::-1].index(flag)]
out, fold = pathlib.Path(given("--run_directory")), given("--data.split.fold")
with open("journal.txt", "a") as journal:
    journal.write(f"{fold}\\n")
if fold == "1" and not pathlib.Path("repaired").exists():
    sys.exit("error: no memory")
assert given("--data.split.folds") == "3" and given("--data.split.test_fraction") == "0"
assert given("--trainer.callbacks.probabilities") == "true" and given("--seed_everything") == "7"
shutil.copytree(f"fold_{fold}", out, dirs_exist_ok=True)
"""


def write_fold(folder: Path, row: np.ndarray, label: np.ndarray, probability: np.ndarray) -> None:
    """Write what a run leaves that held out the given rows."""
    given, probability = label[row], probability[row]
    table = pd.DataFrame({"index": range(len(row)), "row": row})
    table["name"] = [f"{NAMES[k]}/{each}.png" for k, each in zip(given, row, strict=True)]
    compared = compare_with_labels(torch.from_numpy(probability), torch.from_numpy(given))
    table = table.assign(**{name: column.numpy() for name, column in compared.items()}, in_sample=0)
    table = table.assign(suspected=(table["score"] < 0.5).astype(int))
    table = table.assign(**{f"{key}_name": table[key].map(dict(enumerate(NAMES))) for key in ("given", "proposed")})
    folder.mkdir()
    table.sort_values("score").to_csv(folder / "label_report.csv", index=False)
    np.save(folder / "label_probabilities.npy", probability.astype(np.float32))
    (folder / "config.yaml").write_text("{}")
    (folder / "test_metrics.csv").write_text("metric,value\ntest/accuracy,1\n")


@pytest.fixture
def audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Write probabilities of 30 images, and labels of which every seventh is wrong."""
    random = np.random.default_rng(0)
    true = np.arange(30) % 3
    label = np.where(np.arange(30) % 7 == 3, (true + 1) % 3, true)
    probability = random.dirichlet([1, 1, 1], 30) * 0.4 + np.eye(3)[true] * 0.6
    for fold in range(3):
        write_fold(tmp_path / f"fold_{fold}", np.arange(fold, 30, 3)[::-1], label, probability)
    (tmp_path / "mine.yaml").write_text("model: {class_path: lightning_modules.noisy_labels.elr.ELR}\n")
    (tmp_path / "fit.py").write_text(FIT)
    monkeypatch.chdir(tmp_path)
    return label, probability


def test_every_label_is_audited_and_failed_folds_are_repeated(
    audited: tuple[np.ndarray, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label, probability = audited
    line = ["mine.yaml", "--folds", "3", "--seed", "7", "--output", "audit"]
    command = [sys.executable, "fit.py"]
    assert commands.run("label_report", line, command) == 1
    said = capsys.readouterr()
    assert "1 of 3 folds failed: repeat the command to continue" in said.err
    assert not (tmp_path / "audit" / "label_report.csv").exists()
    (tmp_path / "repaired").touch()
    assert commands.run("label_report", line, command) == 0
    assert (tmp_path / "journal.txt").read_text().split() == ["0", "1", "2", "1"]  # finished folds are kept
    said = capsys.readouterr()
    assert "audit/cleaned_labels.yaml" in said.out

    table = pd.read_csv("audit/label_report.csv").sort_values("row")
    assert table["row"].tolist() == list(range(30))
    np.testing.assert_array_equal(np.load("audit/label_probabilities.npy"), probability.astype(np.float32))
    issues = find_label_issues(label, probability.astype(np.float32))
    assert table["suspected_by_cleanlab"].tolist() == issues.astype(int).tolist()
    assert table["suspected"].tolist() == (np.arange(30) % 7 == 3).astype(int).tolist()
    cleaned = pd.read_csv("audit/cleaned_labels.csv")
    assert cleaned["name"].tolist() == [f"{NAMES[k]}/{row}.png" for row, k in enumerate(label)]
    assert cleaned["given_name"].tolist() == [NAMES[k] for k in label]
    assert cleaned["label_name"].tolist() == [NAMES[k] for k in cleaned["label"]]
    assert set(cleaned["action"][np.arange(30) % 7 == 3]) <= {"relabel", "drop"}
    layer = parse_yaml(Path("audit/cleaned_labels.yaml").read_text(), Path("layer"))
    arguments = layer["data"]["init_args"]["label_noise"]["init_args"]
    assert arguments["path"] == "$FOLDER/cleaned_labels.csv"
    noise = FromCSV(**arguments | {"path": "audit/cleaned_labels.csv"})
    assert noise.apply(label, 3, None, cleaned["name"].tolist(), NAMES).tolist() == cleaned["label"].tolist()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["mine.yaml"], "mine.yaml is a file: add --folds 5 to audit the labels of this configuration"),
        (["mine.yaml", "mine.yaml", "--folds", "2"], "--folds needs one configuration, got 2"),
        (["mine.yaml", "--", "--trainer.max_epochs", "1"], "--trainer.max_epochs after `--` needs --folds"),
        (["none.yaml", "--folds", "2"], "config none.yaml does not exist"),
    ],
)
@pytest.mark.usefixtures("audited")
def test_what_can_not_be_audited_is_rejected(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["label_report", *line]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.nightly
@pytest.mark.usefixtures("no_pictures")
def test_injected_label_noise_is_found_as_well_as_by_cleanlab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, out = str(ROOT / "configs/elr/demo.yaml"), str(tmp_path / "audit")
    line = [
        "label_report",
        config,
        "--folds",
        "3",
        "--output",
        out,
        "--",
        "--trainer.max_epochs",
        "80",
    ]  # 40 are too few: the networks confuse classes
    assert train.main(line) == 0
    said = dict(each.rsplit(" ", 1) for each in capsys.readouterr().out.splitlines() if each.startswith("label"))
    assert float(said["label_precision"]) > 0.9
    assert float(said["label_recall"]) > 0.9
    for name in ("label_precision", "label_recall"):
        assert abs(float(said[name]) - float(said[f"{name}_cleanlab"])) < 0.03
    table = pd.read_csv(f"{out}/label_report.csv")
    assert sorted(table["row"]) == list(range(1300))
    assert np.load(f"{out}/label_probabilities.npy").shape == (1300, 10)
    wrong = float((table["given"] != table["clean_label"]).mean())
    assert abs(float(said["labels_wrong_estimate"]) - wrong) < 0.04  # the interval has only the sampling error
    layer = ["--config", f"{out}/cleaned_labels.yaml", "--trainer.fast_dev_run", "true"]
    assert train.main(["fit", "--config", config, *layer]) == 0
