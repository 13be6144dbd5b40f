from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.corruptions.label_noise import FromCSV, InstanceDependent
from tests.datamodules.corruptions.label_noise.examples import RATE
from tests.rejections import Row, rejections


def from_table(root: Path, content: str) -> object:
    path = root / "labels.csv"
    path.write_text(content)
    return FromCSV(str(path)).apply(np.array([0, 1]), 2)


def separated_by(root: Path, sign: str) -> object:
    (root / "labels.csv").write_text(f"name{sign}label\na.png{sign}0\n")
    return FromCSV(str(root / "labels.csv")).apply(torch.zeros(1, dtype=torch.int64), 2)


# fmt: off
REJECTED: list[Row] = [
    ("InstanceDependent seed 1",
     lambda _: InstanceDependent(RATE, seed=0).apply(np.zeros(50, dtype=np.int64), 10, None), ValueError,
     r"image .* 50 labels, got none"),
    ("from table 1", lambda root: from_table(root, ""), ValueError,
     r"cannot be read \(No columns to parse from file\): expected a CSV file in UTF-8 whose first row"),
    ("from table 3", lambda root: from_table(root, "index,label,label\n0,1,0\n1,0,0\n"), ValueError,
     "has the column label twice"),
    ("from table 4b", lambda root: from_table(root, "filename,label\na.png,1\n"), ValueError,
     r"columns name \(or index\),label\[,clean_label\], but lacks name \(or index\): got filename,label"),
    ("from table 7", lambda root: from_table(root, "index,label\n0,1\n0,1\n"), ValueError, "index 0 occurs twice"),
    ("from table 9", lambda root: from_table(root, "index,label\n0,1\n2,1\n"), ValueError,
     "index in .* must be in 0 ... 1, got '2'"),
    ("from table 11", lambda root: from_table(root, "name,label\na.png,1\n"), ValueError,
     "labels files by name, but the samples of this dataset have no names"),
    ("FromCSV", lambda _: FromCSV("nowhere.csv").apply(np.array([0, 1]), 2), FileNotFoundError,
     r"nowhere.csv was not found: expected a CSV file"),
    ("separated by 1", lambda root: separated_by(root, ";"), ValueError,
     "separates its columns by semicolons, but a table of labels must use commas"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
