import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.files.mat_files import read_cells, read_mat


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"other": np.ones(3)})
    (tmp_path / "damaged.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:150])
    for name, message in (
        ("a.mat", "a.mat has no array blocks; it has other"),
        ("damaged.mat", "damaged.mat cannot be read as a .mat file"),
    ):
        with pytest.raises(ValueError, match=message):
            read_mat(tmp_path / name, "blocks")
    with pytest.raises(FileNotFoundError, match=r"none\.mat does not exist"):
        read_mat(tmp_path / "none.mat", "blocks")
    with pytest.raises(FileNotFoundError, match=r"none\.mat does not exist"):
        read_cells(tmp_path / "none.mat", "info/boundingboxes")


HEADER = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"


def test_files_of_matlab_7_3_need_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.mat").write_bytes(HEADER + bytes(400))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"new.mat is a file of MATLAB 7.3.*pip install 'noiseworks\[mat\]'"):
        read_mat(tmp_path / "new.mat", "blocks")


def test_files_of_matlab_7_3_have_their_axes_reversed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    array, cells = np.arange(24.0).reshape(2, 3, 4), [np.arange(8.0).reshape(2, 4) + 10 * cell for cell in range(3)]
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["blocks"] = array.T
        for number, cell in enumerate(cells):
            file[f"#refs#/{number}"] = cell.T
        references = [file[f"#refs#/{number}"].ref for number in range(3)]
        file.create_dataset("info/boxes", data=np.array(references, dtype=h5py.ref_dtype).reshape(3, 1))
    with (tmp_path / "a.mat").open("r+b") as raw:
        raw.write(HEADER)
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "blocks"), array)
    np.testing.assert_array_equal(read_cells(tmp_path / "a.mat", "info/boxes"), cells)
    with pytest.raises(ValueError, match=r"a.mat has no array other; it has blocks, info"):
        read_mat(tmp_path / "a.mat", "other")
    (tmp_path / "b.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"b.mat cannot be read as a .mat file"):
        read_mat(tmp_path / "b.mat", "blocks")
