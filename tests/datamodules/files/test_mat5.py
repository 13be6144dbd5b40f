"""Arrays read from MATLAB files equal those that SciPy reads."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from datamodules.files.mat5 import read_mat5

ARRAYS = {
    **{name: (np.arange(24).reshape(2, 3, 4) * 7).astype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4")},
    **{name: np.linspace(-3, 3, 24).reshape(4, 6).astype(name) for name in ("f4", "f8", "i8", "u8")},
    "one": np.float64(2.5),
    "row": np.arange(3.0),
    "flags": np.array([[True, False]]),
    "empty": np.zeros((0, 3)),
    "a_name_of_more_than_eight_letters": np.ones((1, 1, 2), np.uint8),
    "large": np.random.default_rng(0).integers(0, 255, (300, 40), dtype=np.uint8),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_what_scipy_reads(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"text": "first", **ARRAYS, "cells": np.array([{}, 1], dtype=object)}, do_compression=packed)
    array, names = read_mat5(path, name)
    expected = loadmat(path)[name]
    assert array.dtype == expected.dtype
    assert array.flags.writeable
    np.testing.assert_array_equal(array, expected)
    assert names[0] == "text"
    assert names[-1] == name


def test_the_order_of_bytes_is_the_file_s(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">2I", kind, len(content)) + content + bytes(-len(content) % 8)

    numbers = np.arange(6, dtype=">i2")
    inner = element(6, struct.pack(">2I", 10, 0)) + element(5, struct.pack(">2i", 2, 3))
    inner += struct.pack(">I4s", 1 << 16 | 1, b"X\0\0\0") + element(3, numbers.tobytes())
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, inner))
    array, _ = read_mat5(tmp_path / "a.mat", "X")
    assert array.tolist() == [[0, 2, 4], [1, 3, 5]]
    np.testing.assert_array_equal(array, loadmat(tmp_path / "a.mat")["X"])


def test_what_is_no_array_of_numbers_is_named(tmp_path: Path) -> None:
    memory = io.BytesIO()
    savemat(memory, {"text": "a", "cells": np.array([{}, 1], dtype=object), "z": np.array([1j]), "s": {"a": 1}})
    (tmp_path / "a.mat").write_bytes(memory.getvalue())
    for name, kind in {"text": "char", "cells": "cell", "z": "complex", "s": "struct"}.items():
        with pytest.raises(ValueError, match=f"{name} is of class {kind}, not numbers"):
            read_mat5(tmp_path / "a.mat", name)
    assert read_mat5(tmp_path / "a.mat", "other") == (None, ["text", "cells", "z", "s"])
    (tmp_path / "b.mat").write_bytes(bytes(200))
    with pytest.raises(ValueError, match="does not begin like a file of MATLAB 5"):
        read_mat5(tmp_path / "b.mat", "other")
