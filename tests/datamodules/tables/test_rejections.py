from pathlib import Path
from typing import Any

import pytest

from datamodules.tables.ratings import MovieLens
from datamodules.tables.tables import Tables
from datamodules.tables.trusted_rows import TrustedRows
from datamodules.tables.uci import UCI
from tests.datamodules.tables.test_ratings import written
from tests.datamodules.tables.test_signed_images import digits
from tests.datamodules.tables.test_split_table import Numbers
from tests.datamodules.tables.test_svmlight import written as written_of_svmlight
from tests.datamodules.tables.test_tables import Lines, fitted
from tests.datamodules.tables.test_trusted_rows import cancer
from tests.datamodules.tables.test_uci import ROWS
from tests.datamodules.tables.test_uci import written as written_of_uci
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("training 3", lambda root: written(root, "u.data", "1\t2\t3\t5\n").training(), ValueError,
     "no user has at least min_ratings = 3 ratings"),
    ("MovieLens data_dir", lambda root: MovieLens("ml-1m", data_dir=str(root)).training(), FileNotFoundError,
     r"ml-1m has none of u.data, ratings.dat, ratings.csv: download ml-1m.zip"),
    ("training 8", lambda _: digits(num_test=898).training(), ValueError,
     "num_points 900 plus num_test 898 exceed the 1797 images of Digits"),
    ("Numbers train_size 2", lambda _: Numbers(train_size=33).training(), ValueError,
     "train_size 33 .* does not fit 40 rows: 4 are for testing, 4 for validation and 32 remain for training"),
    ("training 10", lambda root: written_of_svmlight(root, "1 1:1\n2 2:1\n3 2:1\n").training(), ValueError,
     "must have two labels, .*1, 2, 3"),
    ("Tables", lambda _: fitted(Tables(Lines()), overfit_batches=1), ValueError,
     "overfit_batches is not supported, since Tables"),
    ("TrustedRows seed", lambda _: TrustedRows(cancer(), 400, 163, seed=0).training(), ValueError,
     "leave none of the 563 rows of BreastCancer to test with"),
    ("training 11", lambda root: written_of_uci(root, data=ROWS.replace("\t16 ", "\tmany ")).training(), ValueError,
     "UCI: column 1 of .*data.txt contains text: 'many'"),
    ("training 16", lambda root: written_of_uci(root, features="0\n2\n").training(), ValueError,
     "UCI's training rows: column 2 is constant, 5 in every row"),
    ("training 17", lambda root: written_of_uci(root, target="4\n").training(), ValueError,
     r"must have one target column .* 4 columns in total; got features \[0, 1\] and target \[4\]"),
    ("UCI", lambda root: UCI("yacht", str(root)).training(), FileNotFoundError,
     r"UCI: .*uci/yacht/data.txt does not exist; set data_dir"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
