"""Read numeric arrays from MATLAB files.

Objects, functions and links to other files are not read.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files.limits import check_is_file, check_unpacked, sentence
from datamodules.files.mat5 import read_mat5

KNOWN_FILTERS = (1, 2, 3, 4, 5, 6, 32000)
"""Filters that are built into HDF5 and h5py. To apply any other filter, HDF5 would load a library of native code."""


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read one array from a `.mat` file of MATLAB 5 to 7.3.

    Files of version 7.3 (HDF5) require `h5py`.

    Args:
        path: `.mat` file.
        key: name of the array.
    """
    check_is_file(path)
    try:
        array, found = read_mat5(path, key)
    except NotImplementedError:
        return _of_hdf5(path, key, lambda file, stored: _array(path, stored, key).T)
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(f"{path} cannot be read as a .mat file ({sentence(error)}); fetch it again") from error
    if array is None:
        raise ValueError(f"{path} has no array {key}; it has {', '.join(found) or 'nothing'}")
    return array


def read_cells(path: Path, key: str) -> list[np.ndarray]:
    """Read a cell array of arrays from a `.mat` file of MATLAB 7.3.

    Args:
        path: `.mat` file.
        key: name of the cell array, or `<struct>/<field>` if it is a field of a struct.
    """
    check_is_file(path)
    return _of_hdf5(path, key, lambda file, stored: _cells(path, file, stored, key))


def _array(path: Path, stored: Any, key: str) -> np.ndarray:
    """Read a numeric HDF5 array.

    Arrays that are stored in another file, or do not fit into the memory budget, are rejected.
    """
    _check_stored(path, stored, key)
    if stored.dtype.kind not in "biuf":
        raise ValueError(f"{key} is of type {stored.dtype}, not numbers")
    return np.asarray(stored)


def _check_stored(path: Path, stored: Any, key: str) -> None:
    import h5py

    if not isinstance(stored, h5py.Dataset):
        raise ValueError(f"{key} is a {type(stored).__name__.lower()} rather than an array")
    if stored.shape is None:
        raise ValueError(f"{key} is empty")
    if stored.is_virtual or stored.external:
        raise ValueError(f"{key} is stored in another file, which is not read")
    filters = stored.id.get_create_plist()
    for number in range(filters.get_nfilters()):
        if (code := filters.get_filter(number)[0]) not in KNOWN_FILTERS:
            raise ValueError(f"{key} is compressed by the filter {code}, which is not built in")
    check_unpacked(path, math.prod(stored.shape) * stored.dtype.itemsize)


def _cells(path: Path, file: Any, stored: Any, key: str) -> list[np.ndarray]:
    import h5py

    _check_stored(path, stored, key)
    if h5py.check_ref_dtype(stored.dtype) is not h5py.Reference:
        raise ValueError(f"{key} is of type {stored.dtype}, not a cell array")
    cells, size = [], 0
    for number, cell in enumerate(np.asarray(stored).T.flat):
        array = file[cell]
        if isinstance(array, h5py.Dataset) and array.shape is not None:
            size += math.prod(array.shape) * array.dtype.itemsize  # every cell counts, even if all refer to one array
        check_unpacked(path, size)
        cells.append(_array(path, array, f"cell {number} of {key}").T)
    return cells


def _contains(file: Any, key: str) -> bool:
    """Check whether a file contains a key.

    If the path of the key contains links, they are rejected, because a link may point to any other file.
    """
    import h5py

    group = file
    for name in key.split("/"):
        if not isinstance(group, h5py.Group):
            return False
        if (link := group.get(name, getlink=True)) is None:
            return False
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{name} is a link, which is not followed")
        group = group[name]
    return True


def _of_hdf5(path: Path, key: str, read: Callable[[Any, Any], Any]) -> Any:
    """Call `read` on an array of an HDF5 file.

    The axes of the HDF5 array are in reverse order compared with MATLAB.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a file of MATLAB 7.3, which h5py reads: pip install 'noiseworks[mat]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if _contains(file, key):
                return read(file, file[key])
            found = ", ".join(name for name in file if not name.startswith("#")) or "nothing"
    except Exception as error:  # a damaged file may raise almost any exception type
        raise ValueError(f"{path} cannot be read as a .mat file ({sentence(error)}); fetch it again") from error
    raise ValueError(f"{path} has no array {key}; it has {found}")
