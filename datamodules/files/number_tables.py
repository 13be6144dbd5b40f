"""Reading of numeric tables from files, with a check of each column."""

import bz2
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from datamodules.files.limits import check_is_file, check_unpacked, sentence

if TYPE_CHECKING:
    import pandas as pd


def read_numbers(path: Path, name: str, named_rows: bool = False) -> "pd.DataFrame":
    """Read a CSV file that has a header and only numeric columns.

    Args:
        path: CSV file.
        name: name of the dataset, for error messages.
        named_rows: whether the first column contains row names.
    """
    require_file(path, name)
    return checked_numbers(read_table(path, name, index_col=0 if named_rows else None), name, path)


def read_table(path: Path, name: str, **options: Any) -> "pd.DataFrame":
    """Read a table with pandas.

    Args:
        path: table file.
        name: name of the dataset, for error messages.
        options: further arguments of `pandas.read_csv`.
    """
    import pandas as pd

    try:
        check_is_file(path)
        return pd.read_csv(path, **options)
    except Exception as error:  # pandas raises many exception types, also for wrong encodings and lack of memory
        raise ValueError(f"{name}: {path} is not a readable table ({sentence(error)})") from error


def read_svmlight(path: Path, name: str, num_features: int) -> tuple[csr_array, NDArray[np.float64]]:
    """Read a file in the format of SVMlight and LIBSVM, in which columns are numbered from 1.

    Args:
        path: text file, uncompressed or compressed with bz2 or gz.
        name: name of the dataset, for error messages.
        num_features: number of columns. Columns that are missing from the file are 0.

    Returns:
        The sparse features `[N, num_features]` and the labels `[N]`, both float64.
    """
    import pandas as pd
    from sklearn.datasets import load_svmlight_file

    require_file(path, name)
    try:
        _check_packed(path)
        features, label = load_svmlight_file(str(path), zero_based=False)
    except Exception as error:  # because of column numbers out of range, damaged archives or lack of memory
        raise ValueError(f"{name}: {path} is damaged or not an svmlight file: {error}") from error
    checked_numbers(pd.DataFrame({"label": label}), name, path)
    if features.shape[1] > num_features:
        raise ValueError(f"{name}: num_features is {num_features}, but {path} has a column {features.shape[1]}")
    if not (finite := np.isfinite(features.data)).all():
        raise ValueError(f"{name}: column {features.indices[~finite][0] + 1} of {path} has a value that is not finite")
    return csr_array((features.data, features.indices, features.indptr), (len(label), num_features)), label


PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}


def _check_packed(path: Path) -> None:
    """Reject a file whose unpacked size exceeds the memory budget.

    To find this size, the file is unpacked without keeping the result.
    """
    if (unpack := PACKED.get(path.suffix)) is None:
        return
    size = 0
    with unpack(path) as file:
        while part := file.read(1 << 20):
            check_unpacked(path, size := size + len(part))


def require_file(path: Path, name: str) -> None:
    """Reject a path at which there is no file."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {path} does not exist; set data_dir to the folder that contains it")


def read_unnamed_numbers(path: Path, name: str) -> "pd.DataFrame":
    """Read a file of numbers that are separated by white space.

    The file has no header. The columns of the result are named 0, 1, ...

    Args:
        path: text file.
        name: name of the dataset, for error messages.
    """
    require_file(path, name)
    return checked_numbers(read_table(path, name, sep=r"\s+", header=None), name, path)


def checked_numbers(table: "pd.DataFrame", name: str, path: Path) -> "pd.DataFrame":
    """Convert a table to float64.

    Columns that contain text, missing values or infinite values are rejected.

    Args:
        table: table with named columns.
        name: name of the dataset, for error messages.
        path: file of the table.
    """
    import pandas as pd

    if table.empty:
        raise ValueError(f"{name}: {path} has no rows")
    for column in table:
        try:
            values = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        except (OverflowError, TypeError, ValueError) as error:  # raised for integers with hundreds of digits
            raise ValueError(f"{name}: column {column} of {path} has numbers beyond 64 bits ({error})") from error
        if (text := values.isna() & table[column].notna()).any():
            raise ValueError(f"{name}: column {column} of {path} contains text: {table[column][text].iloc[0]!r}")
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{name}: column {column} of {path} lacks a value in row {row + 1}")
    return table.astype(np.float64)


def refuse_constant(table: "pd.DataFrame", name: str) -> None:
    """Reject a table with a constant column, because such a column cannot be standardised."""
    for column in table:
        if table[column].nunique() == 1:
            raise ValueError(
                f"{name}: column {column} is constant, {table[column].iloc[0]:g} in every row: leave it out"
            )
