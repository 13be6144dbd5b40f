"""Arrays are read from pickles; no file can create pointers, call functions or change its reader."""

import codecs
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.files.array_pickle import STAND_INS, read_pickled_arrays

NUMBERS = np.arange(12, dtype=np.int16).reshape(3, 4)
CONTENT = {
    "a": NUMBERS,
    "fortran": np.asfortranarray(NUMBERS),
    "swapped": NUMBERS.astype(">i2"),
    "empty": np.zeros((0, 3)),
    "text": np.array(["cat", "dog"]),
    "flags": np.array([True, False]),
    "scalar": np.float32(0.5),
    "labels": [1, (2, b"x", None)],
}


def read(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return read_pickled_arrays(path)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_of_pickles_of_any_protocol(protocol: int, tmp_path: Path) -> None:
    found = read(tmp_path / "arrays.pkl", pickle.dumps(CONTENT, protocol))
    assert found.keys() == CONTENT.keys()
    assert found["labels"] == CONTENT["labels"]
    for name, value in CONTENT.items():
        if isinstance(value, np.ndarray | np.generic):
            assert type(found[name]) is type(value)
            assert found[name].dtype == value.dtype
            assert np.array_equal(found[name], value)
    found["a"][0, 0] = 7  # it owns its memory


class Calls:
    """An object that is pickled as a call of a function with arguments, and a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


RECONSTRUCT = np.zeros(1).__reduce__()[0]  # type: ignore[index]
POINTERS = (1, (1,), np.dtype(object), False, b"\x01" * 8)
REFUSED = {
    "pointers": Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=POINTERS),
    "objects": np.array([{}]),
    "an array by its class": Calls(np.ndarray, (3,)),
    "more than there is": Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1 << 40,), np.dtype("f8"), False, b"")),
    "a negative size": Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (-1,), np.dtype("f8"), False, b"")),
    "a type with fields": np.zeros(2, dtype=[("x", "f8"), ("y", "O")]),
    "a type made with fields": Calls(np.dtype, [("x", "O")]),
    "a date": np.array(["2020"], dtype="M8[Y]"),
    "another class of arrays": np.ma.zeros(3),
    "a command": Calls(print, "run"),
    "another encoding": Calls(codecs.encode, "x", "utf8"),
    "a name alone": {"a": np.ndarray},
    "a set": {1},
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arrays\.pkl is damaged or not a pickle that contains only NumPy arrays"):
        read(tmp_path / "arrays.pkl", pickle.dumps(content))


@pytest.mark.parametrize("name", ["numpy dtype", "numpy ndarray", "_codecs encode"])
@pytest.mark.parametrize("state", [{"x": 1}, (None, {"__call__": 1})])
def test_what_a_file_names_can_not_be_changed_by_it(name: str, state: Any, tmp_path: Path) -> None:
    before = dict(STAND_INS)
    content = f"c{name.replace(' ', chr(10))}\n".encode() + pickle.dumps(state, 0)[:-1] + b"b."
    assert next(iter(pickletools.genops(content)))[0].name == "GLOBAL"
    with pytest.raises(ValueError, match="is damaged or not a pickle"):
        read(tmp_path / "arrays.pkl", content)
    assert before == STAND_INS


def test_numbers_of_objects_take_no_memory(tmp_path: Path) -> None:
    numbered = b"\x80\x03]r" + (1 << 28).to_bytes(4, "little") + b"."
    with pytest.raises(ValueError, match="it stores an object at memo index 268435456, but has only 9 bytes"):
        read(tmp_path / "arrays.pkl", numbered)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), protocol=st.integers(0, 5))
def test_a_damaged_file_is_refused_or_holds_plain_content(
    data: st.DataObject, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(pickle.dumps(CONTENT, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(tmp_path_factory.getbasetemp() / "damaged.pkl", bytes(content))
    except ValueError:
        return
    for value in found.values() if isinstance(found, dict) else ():
        if isinstance(value, np.ndarray):
            assert not value.dtype.hasobject
            assert value.sum is not None
            value.copy()
