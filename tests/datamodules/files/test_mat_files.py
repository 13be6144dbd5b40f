from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.files.mat_files import read_mat


def test_an_array_is_read_by_its_name(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    savemat(tmp_path / "a.mat", {"blocks": array, "other": np.ones(3)}, do_compression=True)
    read = read_mat(tmp_path / "a.mat", "blocks")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"other": np.ones(3)})
    (tmp_path / "damaged.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:150])
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    for name, message in (
        ("a.mat", "a.mat holds no array blocks; it holds other"),
        ("damaged.mat", "damaged.mat cannot be read as a .mat file"),
        ("new.mat", "new.mat is a file of MATLAB 7.3"),
    ):
        with pytest.raises(ValueError, match=message):
            read_mat(tmp_path / name, "blocks")
    with pytest.raises(FileNotFoundError, match=r"none\.mat does not exist"):
        read_mat(tmp_path / "none.mat", "blocks")
