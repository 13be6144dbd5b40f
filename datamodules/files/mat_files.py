"""Arrays in MATLAB's files."""

from pathlib import Path
from typing import Any

import numpy as np


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read one array from a `.mat` file: of MATLAB 5 to 7.2 through `scipy.io`, of 7.3, which is HDF5, through `h5py`.

    Args:
        path: the file.
        key: name of the array.

    Raises:
        FileNotFoundError: if the file does not exist.
        ModuleNotFoundError: if a file of MATLAB 7.3 is read without `h5py`.
        ValueError: names the file, if it is damaged or without that array.
    """
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        found = [name for name, _, _ in whosmat(path)]
        array = loadmat(path, variable_names=[key]).get(key)
    except NotImplementedError:
        return _of_hdf5(path, key, lambda file, stored: np.asarray(stored).T)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path} cannot be read as a .mat file ({error}); fetch it again") from error
    if array is None:
        raise ValueError(f"{path} holds no array {key}; it holds {', '.join(found) or 'nothing'}")
    return array


def read_cells(path: Path, key: str) -> list[np.ndarray]:
    """Read a cell array of arrays from a `.mat` file of MATLAB 7.3.

    Args:
        path: the file.
        key: name of the cell array, `<struct>/<field>` for a field.

    Raises:
        FileNotFoundError: if the file does not exist.
        ModuleNotFoundError: without `h5py`.
        ValueError: names the file, if it is damaged or without that array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    return _of_hdf5(path, key, lambda file, stored: [np.asarray(file[cell]).T for cell in np.asarray(stored).T.flat])


def _of_hdf5(path: Path, key: str, read: Any) -> Any:
    """Read from an array of a file of HDF5, in which MATLAB's axes are in reverse order."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a file of MATLAB 7.3, which h5py reads: pip install 'noiseworks[mat]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if key in file:
                return read(file, file[key])
            found = ", ".join(name for name in file if not name.startswith("#")) or "nothing"
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path} cannot be read as a .mat file ({error}); fetch it again") from error
    raise ValueError(f"{path} holds no array {key}; it holds {found}")
