"""SegTHOR volumes in NIfTI files, in their published layout."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules.files import limits
from datamodules.files.image_files import UnreadableImage
from datamodules.segmentation.segthor import SegTHOR
from datamodules.segmentation.volume_files import read_volume
from tests.datamodules.segmentation.test_segthor import SMALL, check_sources, slice_of


@pytest.fixture(params=["", "train"])
def volumes(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for patient in (1, 2, 3, 10):
        folder = tmp_path / request.param / f"Patient_{patient:02}"
        folder.mkdir(parents=True)
        image, mask = (np.stack(each, axis=2) for each in zip(*(slice_of(patient, k) for k in range(4)), strict=True))
        nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1.0, 2.5, 1.0])), folder / f"{folder.name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / ("GT.nii" if patient == 3 else "GT.nii.gz"))
    return tmp_path


def test_slices_are_the_planes_of_the_last_axis(volumes: Path) -> None:
    check_sources(SegTHOR(str(volumes), **SMALL))


def test_the_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    volume = nibabel.Nifti1Image(stored, np.eye(4))
    volume.header.set_slope_inter(0.5, -1024)
    nibabel.save(volume, tmp_path / "scaled.nii.gz")
    raw = bytearray(gzip.decompress((tmp_path / "scaled.nii.gz").read_bytes()))
    raw[112:120] = np.array([0.5, -1024], dtype="<f4").tobytes()  # scl_slope and scl_inter of the format
    raw[352:] = stored.tobytes(order="F")
    (tmp_path / "scaled.nii").write_bytes(raw)
    assert np.array_equal(read_volume(tmp_path / "scaled.nii"), 0.5 * stored - 1024)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def claims_a_huge_shape(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()  # dim[1:4] of the format
    path.write_bytes(gzip.compress(bytes(raw)))


def has_four_dimensions(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), np.eye(4)), path)


def has_nan(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((32, 32, 4), np.nan, np.float32), np.eye(4)), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cannot be read as a volume"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "cannot be read as a volume"),
        (claims_a_huge_shape, r"it unpacks to \d+ bytes, more than"),
        (has_four_dimensions, r"the shape \[2, 2, 2, 2\], not \[X, Y, Z\]"),
        (has_nan, "a float32 value that is not finite"),
    ],
)
def test_damaged_volumes_are_named(volumes: Path, damage: Callable[[Path], object], message: str) -> None:
    path = next(volumes.rglob("Patient_02.nii.gz"))
    damage(path)
    with pytest.raises(UnreadableImage, match=message) as caught:
        SegTHOR(str(volumes), **SMALL).validation()
    assert str(path) in str(caught.value)


def test_scaled_volumes_count_as_they_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of 1,000 bytes that its header scales takes 1,000 bytes and 8,000 bytes for float64."""
    monkeypatch.setattr(limits, "BUDGET", 8999)
    monkeypatch.setattr(limits, "BUDGET_RATIO", 1)
    path = tmp_path / "scaled.nii.gz"
    for slope, said in ((1.0, None), (0.5, "it unpacks to 9000 bytes")):
        volume = nibabel.Nifti1Image(np.zeros((10, 10, 10), np.uint8), np.eye(4))
        nibabel.save(volume, path)
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[112:120] = np.array([slope, 0], dtype="<f4").tobytes()  # scl_slope and scl_inter of the format
        path.write_bytes(gzip.compress(bytes(raw)))
        if said is None:
            assert read_volume(path).nbytes == 1000
        else:
            with pytest.raises(UnreadableImage, match=said):
                read_volume(path)


def test_missing_volumes_are_named(volumes: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Patient_12/Patient_12\.nii\.gz does not exist"):
        SegTHOR(str(volumes), **{**SMALL, "train_patients": [1, 12]}).training()
    next(volumes.rglob("Patient_02/GT.nii.gz")).unlink()
    with pytest.raises(FileNotFoundError, match=r"Patient_02/GT\.nii\.gz does not exist"):
        SegTHOR(str(volumes), **SMALL).validation()
