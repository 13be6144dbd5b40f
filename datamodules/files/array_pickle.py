"""NumPy arrays from pickles, without running code that is in them."""

import pickle
from pathlib import Path
from typing import Any

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how old protocols write bytes
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ),
}
"""Functions that a pickle of arrays, numbers, text, lists, tuples and dicts may call."""


class ArrayUnpickler(pickle.Unpickler):
    """Refuses to look up anything but what rebuilds arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_pickled_arrays(path: Path) -> Any:
    """The content of a pickle that holds arrays in plain containers.

    Raises:
        ValueError: if it is damaged or holds anything else, naming the file.
    """
    try:
        with path.open("rb") as file:
            return ArrayUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path} is no undamaged pickle of NumPy arrays alone: {error}") from error
