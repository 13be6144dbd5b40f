from pathlib import Path

import pandas as pd
import pytest

import train
from callbacks.labels.merge import REPORT


def report(folder: Path, rows: list[int], in_sample: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"index": range(len(rows)), "row": rows, "given": 0, "proposed": 1, "score": [row / 10 for row in rows]}
    columns |= {"probability_given": 0.4, "probability_proposed": 0.6}
    table = pd.DataFrame(columns).assign(suspected=lambda t: (t["score"] < 0.25).astype(int), in_sample=in_sample)
    table.assign(clean_label=[1 if row == 0 else None if row == 1 else 0 for row in rows]).to_csv(
        folder / REPORT, index=False
    )


def test_the_folds_are_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(tmp_path / "fold=0", [3, 0, 4])
    report(tmp_path / "fold=1", [1, 2])
    for _ in range(2):  # the run's own report is not a fold
        assert train.main(["label_report", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / REPORT)
    assert table["row"].tolist() == [0, 1, 2, 3, 4]
    printed = capsys.readouterr().out
    assert "labels_suspected 0.6000" in printed
    assert "label_precision 0.5000" in printed  # only rows 0 and 2 count; row 1 has not been verified
    assert "label_recall 1.0000" in printed


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({}, "contains no label_report.csv"),
        ({".": ([0, 1], 1)}, "is one run, whose report is"),
        ({"a": ([0, 1], 1)}, "labels on which its network was trained: train with data.folds 5"),
        ({"a": ([0, 1], 0), "b": ([1, 2], 0)}, "row 1 is in two of the reports"),
        ({"a": ([0, 3], 0)}, "the 1 reports cover 2 of at least 4 images"),
    ],
)
def test_what_is_not_each_fold_once_is_refused(
    folds: dict[str, tuple[list[int], int]], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (rows, in_sample) in folds.items():
        report(tmp_path / name, rows, in_sample)
    assert train.main(["label_report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
