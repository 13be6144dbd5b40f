"""Arrays in MATLAB's files."""

from pathlib import Path

import numpy as np


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read one array from a `.mat` file of MATLAB 5 to 7.2, which `scipy.io` reads without running code.

    Args:
        path: the file.
        key: name of the array.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: names the file, if it is damaged, of MATLAB 7.3 or without that array.
    """
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        found = [name for name, _, _ in whosmat(path)]
        array = loadmat(path, variable_names=[key]).get(key)
    except NotImplementedError as error:
        raise ValueError(f"{path} is a file of MATLAB 7.3; write it anew with save(..., '-v7')") from error
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path} cannot be read as a .mat file ({error}); fetch it again") from error
    if array is None:
        raise ValueError(f"{path} holds no array {key}; it holds {', '.join(found) or 'nothing'}")
    return array
