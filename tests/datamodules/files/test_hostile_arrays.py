"""Malicious array files: each is rejected quickly, in one sentence with its name, and within little memory."""

import io
import pickle
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules.classification.mnist import MedMNIST
from datamodules.classification.svhn import SVHN
from datamodules.corruptions.label_noise.recorded import load_arrays
from datamodules.files import limits
from datamodules.files.array_pickle import read_pickled_arrays
from datamodules.files.mat_files import read_cells, read_mat
from tests.command import ROOT


@pytest.fixture(autouse=True)
def _small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUDGET", 1 << 20)  # compression bombs that are quick to create


class Pointers:
    """Pickles as an array of eight objects whose pointers are bytes chosen by an attacker."""

    def __reduce__(self) -> Any:
        return np.ndarray, ((8,), "O", b"\x41" * 64)


class Followed:
    """Pickles as an array with such pointers in its shape, so that they are dereferenced while the file is read."""

    def __reduce__(self) -> Any:
        return np.ndarray, (Pointers(),)


@pytest.mark.parametrize("new_container", [True, False])
def test_no_label_file_makes_objects_at_pointers_of_its_own(new_container: bool, tmp_path: Path) -> None:
    """The test uses a separate process, because this bug used to kill the process with signal 11."""
    path = tmp_path / "human.pt"
    with_pointers = {"clean_label": Followed(), "worse_label": np.arange(3)}
    torch.save(with_pointers, path, _use_new_zipfile_serialization=new_container)
    code = (
        "import numpy, sys\nfrom datamodules.corruptions.label_noise import HumanCIFARN\n"
        f"try: print(HumanCIFARN({str(path)!r}, 'worse_label').apply(numpy.arange(3), 10))\n"
        "except ValueError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr[-500:]
    assert "human.pt is damaged or not a file of label arrays" in ended.stdout


def pt_of(tmp_path: Path, members: dict[str, bytes]) -> Path:
    path = tmp_path / "human.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def shared_lists(levels: int) -> Any:
    inner: Any = [1]
    for _ in range(levels):
        inner = [inner] * 10
    return inner


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"human/data.pkl": b"torn"},
        {"human/other": b""},
        {"human/data.pkl": bytes(3 << 20)},
        {"a/data.pkl": pickle.dumps({}), "b/data.pkl": pickle.dumps({})},
        {"human/data.pkl": pickle.dumps({"clean_label": torch.zeros(3)})},
        {"human/data.pkl": pickle.dumps({"clean_label": np.array([{}])})},
    ],
    ids=["empty", "torn", "foreign", "bomb", "two", "tensors", "objects"],
)
def test_a_label_file_of_other_content_is_one_sentence(members: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"human\.pt is damaged or not a file of label arrays"):
        load_arrays(str(pt_of(tmp_path, members)))


def test_lists_that_are_shared_ten_times_at_twelve_levels_do_not_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(shared_lists(12)))
    with pytest.raises(ValueError, match=r"a\.pkl is damaged or not a pickle"):
        read_pickled_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize("twice", [b"2\x86", b"q\x00h\x00\x86"])
def test_a_key_whose_hash_would_take_hours_is_refused(twice: bytes, tmp_path: Path) -> None:
    """Each tuple contains the previous tuple twice, so hashing the last one would take exponential time."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02})" + twice * 60 + b"Ns.")
    with pytest.raises(ValueError, match=r"a\.pkl is damaged or not a pickle .*a tuple of \d+ values, but only"):
        read_pickled_arrays(tmp_path / "a.pkl")


HEADER = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"


def hdf5(path: Path, write: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        write(h5py, file)
    with path.open("r+b") as raw:
        raw.write(HEADER)
    return path


def _external_data(h5py: Any, file: Any) -> None:
    secret = Path(file.filename).with_name("secret")
    file.create_dataset("blocks", shape=(4,), dtype="u1", external=[(str(secret), 0, 4)])


def _external_link(h5py: Any, file: Any) -> None:
    file["blocks"] = h5py.ExternalLink(Path(file.filename).with_name("other.h5"), "data")


def _external_group(h5py: Any, file: Any) -> None:
    file["inner"] = h5py.ExternalLink(Path(file.filename).with_name("other.h5"), "/")
    file["blocks"] = h5py.SoftLink("/inner/data")


def _virtual(h5py: Any, file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="u1")
    layout[:] = h5py.VirtualSource(Path(file.filename).with_name("other.h5"), "data", shape=(4,))
    file.create_virtual_dataset("blocks", layout)


def _unwritten(h5py: Any, file: Any) -> None:
    file.create_dataset("blocks", shape=(1 << 40,), dtype="u1", chunks=(1 << 20,))


def _packed(h5py: Any, file: Any) -> None:
    blocks = file.create_dataset("blocks", shape=(4 << 20,), dtype="u1", chunks=(1 << 20,), compression="gzip")
    blocks[:] = 0


def _objects(h5py: Any, file: Any) -> None:
    file.create_dataset("blocks", data=["text", "more"], dtype=h5py.string_dtype())


def _group(h5py: Any, file: Any) -> None:
    file.create_group("blocks/inner")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_external_data, "another file"),
        (_external_link, "link"),
        (_external_group, "link"),
        (_virtual, "another file|other"),
        (_unwritten, "bytes"),
        (_packed, "bytes"),
        (_objects, "numbers"),
        (_group, "array"),
    ],
)
def test_a_mat_file_of_hdf5_reads_no_other_file_and_is_no_bomb(write: Any, reason: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(b"1234")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.arange(4, dtype="u1")
    path = hdf5(tmp_path / "a.mat", write)
    with pytest.raises(ValueError, match=rf"a\.mat cannot be read as a \.mat file \(.*({reason})"):
        read_mat(path, "blocks")


def test_cells_of_a_mat_file_read_no_other_file_either(tmp_path: Path) -> None:
    def write(h5py: Any, file: Any) -> None:
        (tmp_path / "secret").write_bytes(b"1234")
        cell = file.create_dataset("#refs#/a", shape=(4,), dtype="u1", external=[(str(tmp_path / "secret"), 0, 4)])
        file.create_dataset("info/boxes", data=np.array([cell.ref], dtype=h5py.ref_dtype).reshape(1, 1))
        file.create_dataset("info/numbers", data=np.ones((2, 2)))

    path = hdf5(tmp_path / "a.mat", write)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read .*another file"):
        read_cells(path, "info/boxes")
    with pytest.raises(ValueError, match=r"a\.mat cannot be read .*not a cell"):
        read_cells(path, "info/numbers")


@pytest.mark.parametrize(
    "content",
    [{"x": 1.0}, np.array([{"a": 1}, "x"], dtype=object), "text", np.zeros(0, dtype=[("a", "f8")])],
    ids=["struct", "cells", "text", "empty struct"],
)
def test_a_mat_file_of_anything_but_numbers_is_refused(content: Any, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"blocks": content})
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a \.mat file \(blocks is .*not numbers"):
        read_mat(tmp_path / "a.mat", "blocks")


def element(kind: int, content: bytes) -> bytes:
    return np.array([kind, len(content)], "<u4").tobytes() + content + bytes(-len(content) % 8)


def mat5(elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + elements


def matrix(kind: int, shape: tuple[int, ...], content: bytes) -> bytes:
    flags = element(6, np.array([kind, 0], "<u4").tobytes())
    return element(14, flags + element(5, np.array(shape, "<i4").tobytes()) + element(1, b"blocks") + content)


def test_a_packed_mat_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"blocks": np.zeros(3 << 20, np.uint8)}, do_compression=True)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read .*bytes"):
        read_mat(tmp_path / "a.mat", "blocks")


@pytest.mark.parametrize(
    "elements",
    [
        matrix(9, (2**31 - 1, 2**31 - 1), element(2, b"12345678")),
        matrix(9, (-1, 4), element(2, b"1234")),
        matrix(16, (1, 1), matrix(2, (1, 1), b"")),  # a function handle
        matrix(17, (1, 1), element(1, b"MCOS")),  # an object
        element(15, zlib.compress(matrix(9, (1 << 30, 1), element(2, bytes(1000))))),
        element(15, b"torn"),
        matrix(9, (2, 2), element(0, bytes(32))),
        matrix(9, (2, 2), element(99, bytes(32))),
    ],
    ids=["more than there is", "a negative size", "a function", "an object", "packed", "torn", "no type", "a type"],
)
def test_a_mat_file_made_by_hand_is_one_sentence(elements: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(mat5(elements))
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a \.mat file|a\.mat has no array blocks"):
        read_mat(tmp_path / "a.mat", "blocks")


@pytest.mark.parametrize("label", [np.nan, np.inf, 200.0, 2.5, -3.0, 0.0])
def test_a_label_of_svhn_that_is_no_class_is_named(label: float, tmp_path: Path) -> None:
    given = np.array([[1.0], [10.0], [label], [3.0]])
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": given})
    with pytest.raises(ValueError, match=r"test_32x32\.mat has the label .* at position 2.*1 \.\.\. 10"):
        SVHN(str(tmp_path)).test()


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


IMAGES = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize("label", [9, -1, np.nan, 0.5])
def test_a_label_of_medmnist_that_is_no_class_is_named(label: float, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", test_images=IMAGES, test_labels=np.array([[0], [label], [1]]))
    with pytest.raises(ValueError, match=r"set\.npz has the label .* at position 1.*0 \.\.\. 1"):
        MedMNIST("set", 2, str(tmp_path)).test()
