"""Read volumes of CT and MRI scans from NIfTI files."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files.image_files import UnreadableImage
from datamodules.files.limits import check_is_file, check_unpacked, sentence


def read_volume(path: Path) -> np.ndarray:
    """Read the values `[X, Y, Z]` of a `.nii` or `.nii.gz` file, scaled as the file's header specifies."""
    check_is_file(path)
    try:
        import nibabel
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: NIfTI files are read by nibabel; pip install 'noiseworks[nifti]'", name="nibabel"
        ) from None
    try:
        volume = nibabel.Nifti1Image.from_filename(path)
        if len(volume.shape) != 3:
            raise ValueError(f"it has the shape {list(volume.shape)}, not [X, Y, Z]")
        stored = volume.get_data_dtype().itemsize
        proxy: Any = volume.dataobj
        scaled = np.dtype(np.float64).itemsize if proxy.slope != 1 or proxy.inter != 0 else 0
        check_unpacked(path, int(np.prod(volume.shape, dtype=object)) * (stored + scaled))
        values = np.asanyarray(proxy)
    except Exception as error:  # nibabel raises many types, and WrapStructError for an empty file
        raise UnreadableImage(f"{path} cannot be read as a volume ({sentence(error)}); replace it") from error
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise UnreadableImage(
            f"{path} cannot be read as a volume (it has a {values.dtype} value that is not finite); replace it"
        )
    return values
