"""SegTHOR: CT slices of the thorax, with oesophagus, heart, trachea and aorta."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.batches import IGNORED
from datamodules.files.array_files import read_npy
from datamodules.files.array_pickle import read_pickled_arrays
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import UnreadableImage, opened_image
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory
from datamodules.segmentation.volume_files import read_volume

TRAINING = [*range(1, 8), *range(9, 21), 22, 24, 25, 26, 28, 30, 31, 33, 36, 38, 39, 40]
VALIDATION = [21, 23, 27, 29, 37]
TEST = [8, 27, 32, 34, 35]
FOLDERS = (("images", "masks"), ("img", "label"))
PICKLES = {"training": "tr.pkl", "validation": "val.pkl", "test": "ts.pkl"}
SUFFIXES = (".npy", ".png")


class SegTHOR(MaskSet):
    """SegTHOR dataset with 5 classes. It contains the two-dimensional slices that show at least a part of an organ.

    Slices are read from one of these layouts:

    * the published volumes: `Patient_07/Patient_07.nii.gz` with the mask `Patient_07/GT.nii.gz`, in `data_dir` or in
      `data_dir/train`. A slice is a plane perpendicular to the last axis, and the first axis numbers its rows. Reading
      these files requires the `nifti` extra.
    * `images/<name>.npy` (or `.png`) and `masks/<name>.npy` (or `.png`), one slice `[H, W]` per file. The first number
      in a file name is the number of the patient, as in `Patient_07_0123`. Folders named `img` and `label` also work.
    * the ADELE authors' `tr.pkl`, `val.pkl` and `ts.pkl`. Each file contains a dict of images and a dict of masks, both
      by slice name. Code in these pickles is not executed. The arguments `train_patients`, `val_patients` and
      `test_patients` have no effect on pickles.

    Slices are resized to `image_size`: images bilinearly, masks by nearest neighbour. The network receives standardised
    slices instead of images in [0, 1]. A standardised slice is (x - mean) / std, with mean and std over the pixels of
    the slice.

    The default split is that of ADELE's authors, in which patient 27 is used for both testing and validation.

    Args:
        data_dir: folder that contains the slices. None means `segthor` in the NOISEWORKS_DATA directory.
        image_size: height and width of the slices after resizing, in pixels.
        train_patients: numbers of the training patients, if the slices are not read from pickles.
        val_patients: numbers of the validation patients.
        test_patients: numbers of the test patients.
    """

    num_classes = 5
    class_names = ("background", "oesophagus", "heart", "trachea", "aorta")

    def __init__(
        self,
        data_dir: str | None = None,
        image_size: int = 256,
        train_patients: list[int] = TRAINING,
        val_patients: list[int] = VALIDATION,
        test_patients: list[int] = TEST,
    ) -> None:
        at_least(1, image_size=image_size)
        if not train_patients or not test_patients:
            raise ValueError("train_patients and test_patients must each name at least one patient")
        if both := sorted(set(train_patients) & {*val_patients, *test_patients}):
            raise ValueError(f"train_patients must not include validation or test patients, got {both} in both")
        self.data_dir = data_dir
        self.patients = {"training": train_patients, "validation": val_patients, "test": test_patients}
        self.image_shape = (1, image_size, image_size)

    def training(self) -> MasksInMemory:
        return self._read("training")

    def validation(self) -> MasksInMemory | None:
        return self._read("validation") if self.patients["validation"] else None

    def test(self) -> MasksInMemory:
        return self._read("test")

    def _root(self) -> Path:
        directory = data_directory(self.data_dir, "SegTHOR")
        return directory / "segthor" if self.data_dir is None else directory

    def _read(self, split: str) -> MasksInMemory:
        """Read those slices of a split that show an organ, and resize them to `image_size`."""
        root, size = self._root(), self.image_shape[1]
        folders = next((pair for pair in FOLDERS if (root / pair[0]).is_dir()), None)
        if folders is not None:
            slices = slices_of_folders(root / folders[0], root / folders[1], self.patients[split])
        elif (root / PICKLES[split]).is_file():
            slices = slices_of_pickle(root / PICKLES[split])
        elif (volumes := _volume_folder(root)) is not None:
            slices = slices_of_volumes(volumes, self.patients[split])
        else:
            raise FileNotFoundError(
                f"SegTHOR: found neither volumes {root / 'Patient_01' / 'GT.nii.gz'} nor {root / 'images'} with a "
                f"slice in each file nor {root / PICKLES[split]}; request the data at "
                "https://competitions.codalab.org/competitions/21145"
            )
        images, masks = [], []
        for name, image, mask in slices:
            if image.shape != mask.shape or image.ndim != 2:
                raise ValueError(f"{name} is {list(image.shape)} and its mask {list(mask.shape)}; both must be [H, W]")
            if ((mask > 0) & (mask != IGNORED)).any():
                images.append(_resized_image(image, size))
                masks.append(_resized_mask(name, mask, size))
        if not images:
            raise FileNotFoundError(f"SegTHOR: no {split} slice in {root} shows an organ; expected at least one")
        return MasksInMemory(torch.stack(images)[:, None], torch.stack(masks), self.num_classes, data_range=None)


def slices_of_folders(
    images: Path, masks: Path, patients: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (path, image, mask) for each slice of the selected patients, sorted by name."""
    of_patient: dict[int, list[Path]] = {patient: [] for patient in patients}
    for path in sorted(images.iterdir()):
        number = re.search(r"\d+", path.stem)
        if path.suffix in SUFFIXES and number is not None and int(number[0]) in of_patient:
            of_patient[int(number[0])].append(path)
    if missing := [patient for patient, paths in of_patient.items() if not paths]:
        raise FileNotFoundError(
            f"{images} has no slice of patient {missing[0]} ({len(missing)} of {len(of_patient)} patients are "
            f"missing); expected Patient_{missing[0]:02}_<slice>.npy or .png"
        )
    for path in (path for paths in of_patient.values() for path in paths):
        found = [masks / (path.stem + suffix) for suffix in SUFFIXES if (masks / (path.stem + suffix)).is_file()]
        if not found:
            raise FileNotFoundError(
                f"{masks / (path.stem + SUFFIXES[0])} does not exist; it must be the mask of {path}"
            )
        yield str(path), read_slice(path), read_slice(found[0])


def slices_of_volumes(root: Path, patients: Sequence[int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (path and number, image, mask) for each slice in the volumes of the selected patients."""
    for patient in sorted(patients):
        folder = root / f"Patient_{patient:02}"
        image, mask = (read_volume(_volume_path(folder / name)) for name in (folder.name, "GT"))
        if image.shape != mask.shape:
            raise ValueError(f"{folder} has a volume {list(image.shape)} and a mask {list(mask.shape)}")
        for number in range(image.shape[2]):
            yield f"{folder}, slice {number}", image[:, :, number], mask[:, :, number]


def _volume_folder(root: Path) -> Path | None:
    return next((folder for folder in (root, root / "train") if any(folder.glob("Patient_*/GT.nii*"))), None)


def _volume_path(stem: Path) -> Path:
    packed = stem.with_name(f"{stem.name}.nii.gz")
    plain = stem.with_name(f"{stem.name}.nii")
    return plain if plain.is_file() and not packed.is_file() else packed


def slices_of_pickle(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, image, mask) for each slice in one of the authors' pickles, sorted by name."""
    content = read_pickled_arrays(path)
    expected = f"{path} must contain two dicts from names to arrays, of images and of masks"
    if not (
        isinstance(content, tuple | list) and len(content) == 2 and all(isinstance(part, dict) for part in content)
    ):
        raise ValueError(f"{expected}, got {type(content).__name__}")
    images, masks = content
    if images.keys() != masks.keys():
        raise ValueError(f"{expected}, with the same names; {len(images.keys() ^ masks.keys())} names are in only one")
    for name in sorted(images):
        pair = images[name], masks[name]
        if not all(isinstance(array, np.ndarray) and array.dtype != object for array in pair):
            raise ValueError(f"{expected}; {name} is not an array of numbers")
        yield f"{path}: {name}", *pair


def read_slice(path: Path) -> np.ndarray:
    """Read a slice `[H, W]` from a `.npy` file or a one-channel image file."""
    try:
        if path.suffix == ".npy":
            read = read_npy(path)
        else:
            with opened_image(path, "a slice") as image:
                read = np.array(image)
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"{path} cannot be read as a slice ({error}); replace it") from error
    if read.dtype.kind not in "biuf" or not np.isfinite(read).all():
        raise UnreadableImage(
            f"{path} cannot be read as a slice (it has a {read.dtype} value that is not finite); replace it"
        )
    return read


def _resized_image(image: np.ndarray, size: int) -> Tensor:
    """Resize an image to `[size, size]`.

    The result is uint8 for uint8 images, int16 for other integers within the range of int16, and otherwise float32.
    """
    whole = np.issubdtype(image.dtype, np.integer)
    held = whole and np.iinfo(np.int16).min <= image.min() and image.max() <= np.iinfo(np.int16).max
    stored = torch.uint8 if image.dtype == np.uint8 else torch.int16 if held else torch.float32
    values = torch.from_numpy(image.astype(np.float32))
    if image.shape != (size, size):
        values = F.interpolate(values[None, None], size=(size, size), mode="bilinear")[0, 0]
    return (values.round() if whole else values).to(stored)


def _resized_mask(name: str, mask: np.ndarray, size: int) -> Tensor:
    """Resize a mask to a uint8 mask `[size, size]` by nearest-neighbour sampling."""
    if not ((mask >= 0) & (mask <= IGNORED) & (mask == np.rint(mask))).all():
        raise ValueError(f"the mask of {name} must contain class indices, whole numbers in 0...{IGNORED}")
    values = torch.from_numpy(mask.astype(np.float32))
    if mask.shape != (size, size):
        values = F.interpolate(values[None, None], size=(size, size), mode="nearest-exact")[0, 0]
    return values.to(torch.uint8)
