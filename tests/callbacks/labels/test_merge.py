from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import train
from callbacks.labels.merge import REPORT, describe_missing
from datamodules.files.whole_files import owned_folder


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
        ({"a": ([0, 1], 1)}, "labels on which its network was trained: train with data.split.folds 5"),
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


def test_several_folders_need_an_output_and_corrected_labels_are_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "out"
    report(runs[0], [3, 0, 4])
    report(runs[1], [1, 2])
    monkeypatch.chdir(tmp_path)
    assert train.main(["label_report", "a", "b"]) == 2
    assert "2 folders are merged: give --output FOLDER" in capsys.readouterr().err
    line = ["label_report", "a", "b", "--output", "out"]
    for probability in (",0.4,", ",0.35,"):  # its own labels are replaced, also by those of other reports
        path = runs[1] / REPORT
        path.write_text(path.read_text().replace(",0.4,", probability))
        assert train.main(line) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "out"}
    own = out / "cleaned_labels.csv"
    corrected = own.read_text().replace("keep", "drop", 1)
    own.write_text(corrected)
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert train.main(line) == 2
    assert "out/cleaned_labels.csv was corrected by hand: rename it, or choose another --output" in (
        capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    with owned_folder(out):
        assert train.main(line) == 2
    assert "out is in use by process" in capsys.readouterr().err
    assert train.main([*line[:-1], "other"]) == 0


def test_how_many_labels_are_unchecked_is_said() -> None:
    assert describe_missing(240, SimpleNamespace(label=range(240))) == describe_missing(3, object()) == ""
    said = describe_missing(217, SimpleNamespace(label=range(240)))
    assert said.startswith("The label report covers 217 of 240 images. The labels of the other 23 (")
    assert "with data.split.folds, and merge the reports with `train.py label_report`" in said
