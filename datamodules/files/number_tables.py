"""Tables of numbers in files, whose columns are checked by name."""

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
    """Read a CSV file with a header, all of whose columns are numbers.

    Args:
        path: the file.
        name: name of the data set, for messages.
        named_rows: whether the first column holds names of the rows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names a column that holds text or lacks values, or says that there are no rows.
    """
    require_file(path, name)
    return checked_numbers(read_csv(path, name, index_col=0 if named_rows else None), name, path)


def read_csv(path: Path, name: str, **options: Any) -> "pd.DataFrame":
    """Read a table of text as pandas does.

    Args:
        path: the file.
        name: name of the data set, for messages.
        options: of `pandas.read_csv`.

    Raises:
        ValueError: names the file, whatever pandas raises of it.
    """
    import pandas as pd

    try:
        check_is_file(path)
        return pd.read_csv(path, **options)
    except Exception as error:  # of pandas' many, of text in another encoding and of memory
        raise ValueError(f"{name}: {path} is no table ({sentence(error)})") from error


def read_svmlight(path: Path, name: str, num_features: int) -> tuple[csr_array, NDArray[np.float64]]:
    """Read a file in the format of SVMlight and LIBSVM, whose columns count from 1; bz2 and gz are unpacked.

    Args:
        path: the file.
        name: name of the data set, for messages.
        num_features: columns of the table; those that no row of the file has are 0.

    Returns:
        Features `[N, num_features]`, sparse, and labels `[N]`, both in float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line cannot be read or the file is damaged, it holds no rows, a row has more columns, or a
            number is not finite.
    """
    import pandas as pd
    from sklearn.datasets import load_svmlight_file

    require_file(path, name)
    try:
        _check_packed(path)
        features, label = load_svmlight_file(str(path), zero_based=False)
    except Exception as error:  # of columns that no number holds, of damaged archives and of memory
        raise ValueError(f"{name}: {path} is no svmlight file, or a damaged one: {error}") from error
    checked_numbers(pd.DataFrame({"label": label}), name, path)
    if features.shape[1] > num_features:
        raise ValueError(f"{name}: num_features is {num_features}, and {path} has a column {features.shape[1]}")
    if not (finite := np.isfinite(features.data)).all():
        raise ValueError(f"{name}: column {features.indices[~finite][0] + 1} of {path} has a value that is not finite")
    return csr_array((features.data, features.indices, features.indptr), (len(label), num_features)), label


PACKED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}


def _check_packed(path: Path) -> None:
    """Unpack a file once without keeping it, and stop where it grows above the budget."""
    if (unpack := PACKED.get(path.suffix)) is None:
        return
    size = 0
    with unpack(path) as file:
        while part := file.read(1 << 20):
            check_unpacked(path, size := size + len(part))


def require_file(path: Path, name: str) -> None:
    """Refuse the path of a table where there is no file.

    Raises:
        FileNotFoundError: names the data set and the path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {path} does not exist; set data_dir to the folder that holds it")


def read_unnamed_numbers(path: Path, name: str) -> "pd.DataFrame":
    """Read a file without a header, whose numbers have white space between them; its columns' names are 0, 1, ...

    Args:
        path: the file.
        name: name of the data set, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names a column that holds text or lacks values, or says that there are no rows.
    """
    require_file(path, name)
    return checked_numbers(read_csv(path, name, sep=r"\s+", header=None), name, path)


def checked_numbers(table: "pd.DataFrame", name: str, path: Path) -> "pd.DataFrame":
    """Give a table in float64, or refuse its first column that holds text, lacks values or has one that is infinite.

    Args:
        table: with named columns.
        name: name of the data set, for messages.
        path: where the table comes from.

    Raises:
        ValueError: names the column, and says that there are no rows if there are none.
    """
    import pandas as pd

    if table.empty:
        raise ValueError(f"{name}: {path} holds no rows")
    for column in table:
        try:
            values = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        except (OverflowError, TypeError, ValueError) as error:  # of whole numbers of hundreds of digits
            raise ValueError(f"{name}: column {column} of {path} holds no numbers of 64 bits ({error})") from error
        if (text := values.isna() & table[column].notna()).any():
            raise ValueError(f"{name}: column {column} of {path} holds text: {table[column][text].iloc[0]!r}")
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"{name}: column {column} of {path} lacks a value in row {row + 1}")
    return table.astype(np.float64)


def refuse_constant(table: "pd.DataFrame", name: str) -> None:
    """Refuse a table with a column that always holds the same number, which cannot be standardised.

    Raises:
        ValueError: names the column.
    """
    for column in table:
        if table[column].nunique() == 1:
            raise ValueError(
                f"{name}: column {column} is constant, {table[column].iloc[0]:g} in every row: leave it out"
            )
