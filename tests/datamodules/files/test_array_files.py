"""Arrays are read from `.npy` and `.npz`; malicious or damaged files are rejected in one sentence with their name."""

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.files import limits
from datamodules.files.array_files import read_npy, read_npz

NUMBERS = np.arange(12, dtype=np.int16).reshape(3, 4)
ARRAYS = {
    "mu": np.linspace(0, 1, 500),
    "fortran": np.asfortranarray(NUMBERS),
    "swapped": NUMBERS.astype(">i2"),
    "empty": np.zeros((0, 3)),
    "text": np.array(["cat", "dog"]),
    "flag": np.array(True),
    "complex": np.array([1j]),
}


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def with_header(header: str, content: bytes = b"") -> bytes:
    said = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + content


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def encrypted(content: bytes) -> bytes:
    """Set the encryption flag in both headers of an archive's single member."""
    changed = bytearray(content)
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(start) + at] |= 1
    return bytes(changed)


def declared(content: bytes, size: int) -> bytes:
    """Change the declared uncompressed size of a single member in the archive's directory."""
    changed = bytearray(content)
    at = changed.index(b"PK\x01\x02") + 24
    changed[at : at + 4] = struct.pack("<I", size)
    return bytes(changed)


def wrong_check_sum(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[changed.index(b"PK\x01\x02") + 16] ^= 1
    return bytes(changed)


OBJECTS = npy(np.array([{}]), allow_pickle=True)
HUGE = with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}", bytes(8))
HOSTILE_ARRAYS = {
    "objects": (OBJECTS, "neither numbers nor text"),
    "fields": (npy(np.zeros(2, dtype=[("x", "f8")])), "neither numbers nor text"),
    "dates": (npy(np.array(["2020"], dtype="M8[Y]")), "neither numbers nor text"),
    "no bytes an item": (with_header("{'descr': '|S0', 'fortran_order': False, 'shape': (9,)}"), "neither numbers nor"),
    "a huge shape": (HUGE, r"declares an array \[1099511627776\]"),
    "a negative size": (
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        r"declares an array \[-1\]",
    ),
    "a huge shape of nothing": (
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 0)}"),
        "declares",
    ),
    "more than it declares": (npy(NUMBERS) + b"x", "has 25 bytes"),
    "less than it declares": (npy(NUMBERS)[:-1], "has 23 bytes"),
    "a header that calls": (with_header("__import__('os').getpid()"), "malformed node"),
    "a deep header": (with_header("(" * 60), "multi-line"),
    "a later format": (b"\x93NUMPY\x03\x00" + npy(NUMBERS)[8:], "3.0"),
    "text": (b"weights\n", "magic"),
    "nothing": (b"", "magic"),
}
PAIR = archive({"a.npy": npy(np.zeros(1000)), "b.npy": npy(NUMBERS)})
ONE = archive({"a.npy": npy(np.zeros(1000))})
HOSTILE_ARCHIVES = {
    "encrypted": (encrypted(ONE), "encrypted"),
    "a wrong check sum": (wrong_check_sum(ONE), "CRC"),
    "a huge size": (declared(ONE, 0xFFFFFFF0), "declares 4294967280 bytes"),
    "another compression": (archive({"a.npy": npy(np.zeros(1000))}, zipfile.ZIP_LZMA), "neither stored nor deflated"),
    "no array": (archive({"a.npy": b"weights"}), "'a': "),
    "no zip": (b"weights\n", "not a zip"),
    "nothing": (b"", "not a zip"),
    "cut": (PAIR[:-30], "not a zip"),
    "an .npy": (npy(NUMBERS), "not a zip"),
    **{name: (archive({"a.npy": content}), message) for name, (content, message) in HOSTILE_ARRAYS.items()},
}


def refused(read: Callable[[], Any], path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_named_arrays_come_out_of_an_npz(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **ARRAYS, objects=np.array([{}]))
    found = read_npz(tmp_path / "a.npz", ["mu", "text"], [*list(ARRAYS), "other"])
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert read_npz(tmp_path / "a.npz", ["mu"]).keys() == {"mu"}


def test_an_array_comes_out_of_an_npy(tmp_path: Path) -> None:
    for array in ARRAYS.values():
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("name", HOSTILE_ARCHIVES)
def test_a_hostile_archive_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE_ARCHIVES[name]
    (path := tmp_path / "a.npz").write_bytes(content)
    assert re.search(message, refused(lambda: read_npz(path, ["a"]), path))


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_a_hostile_array_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE_ARRAYS[name]
    (path := tmp_path / "a.npy").write_bytes(content)
    assert re.search(message, refused(lambda: read_npy(path), path))


def test_what_is_missing_doubled_or_no_file_is_named(tmp_path: Path) -> None:
    (path := tmp_path / "a.npz").write_bytes(PAIR)
    assert refused(lambda: read_npz(path, ["a", "mu"]), path).endswith("lacks mu; it has 'a', 'b'")
    path.write_bytes(archive({"a": b"", "a.npy": npy(NUMBERS)}))
    assert "'a' twice" in refused(lambda: read_npz(path, ["a"]), path)
    os.mkfifo(pipe := tmp_path / "pipe")
    for read in (read_npy, read_npz):
        assert "not a regular file" in refused(lambda read=read: read(pipe), pipe)  # type: ignore[misc]
        with pytest.raises(FileNotFoundError, match="none does not exist"):
            read(tmp_path / "none")


def test_a_small_file_does_not_become_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(path := tmp_path / "a.npz", a=np.zeros(1 << 20, np.uint8))
    assert len(read_npz(path, ["a"])["a"]) == 1 << 20
    monkeypatch.setattr(limits, "BUDGET", 1 << 20)
    assert "more than the limit of 1048576" in refused(lambda: read_npz(path, ["a"]), path)
    np.savez(path, a=np.zeros(1 << 21, np.uint8))  # has the declared size
    assert len(read_npz(path, ["a"])["a"]) == 1 << 21


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_holds_its_arrays(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(data.draw(st.sampled_from([PAIR, archive({"a.npy": npy(np.zeros(1000))}, zipfile.ZIP_STORED)])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        found = read_npz(path, ["a"])
    except ValueError:
        return
    np.testing.assert_array_equal(found["a"], np.zeros(1000))  # its checksum is correct
