"""AID, a dataset of aerial images for super-resolution, and a small set of its images at a reduced size."""

from pathlib import Path

import numpy as np
import yaml

from datamodules.file_pairs import stem_of
from datamodules.files.data_directory import data_directory
from datamodules.restoration.folder_sets import image_files, read_images
from datamodules.restoration.images import Images, PairSet, Split

LIST = Path(__file__).with_name("aid.yaml")


def selection() -> dict[str, list[str]]:
    """Read the lists of training images and test images, with names of the form `<Kind>/<kind>_<number>.jpg`."""
    chosen: dict[str, dict[str, list[int]]] = yaml.safe_load(LIST.read_text())
    return {
        split: [f"{kind}/{kind.lower()}_{number}.jpg" for kind, numbers in kinds.items() for number in numbers]
        for split, kinds in chosen.items()
    }


class AID(PairSet):
    """Aerial images of 30 kinds of scenes, `AID/<Kind>/<kind>_<number>.jpg`, centre-cropped to 512 x 512 pixels.

    Each kind has 100 training images and 30 test images (AID900). They are listed in `aid.yaml`, next to this file. The
    authors of EDiffSR did not publish their random selection, so the listed images were selected at random for this
    project.

    Args:
        data_dir: folder that contains `AID`. None means the NOISEWORKS_DATA directory.

    Source: Xia et al., AID: A Benchmark Data Set for Performance Evaluation of Aerial Scene Classification, IEEE TGRS
    2017.
    """

    channels = 3
    side = 512

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        folder = data_directory(self.data_dir, "AID") / "AID"
        chosen = selection()["training" if split == "training" else "test"]
        if missing := [name for name in chosen if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"AID: {folder / missing[0]} does not exist, and {len(missing)} of {len(chosen)} images are missing; "
                f"extract AID to {folder}, with one folder for each of its 30 kinds"
            )
        images = []
        for name, image in zip(chosen, read_images(folder, chosen, self.channels), strict=True):
            top, left = ((side - self.side) // 2 for side in image.shape[1:])
            if min(top, left) < 0:
                raise ValueError(f"{name} has {image.shape[1]} x {image.shape[2]} pixels; images of AID have 600 x 600")
            images.append(np.ascontiguousarray(image[:, top : top + self.side, left : left + self.side]))
        return Images([stem_of(name) for name in chosen], images)


class AIDThumbnails(PairSet):
    """120 images of AID, reduced to 150 x 150 pixels, in `remote_sensing/aid_150/<Kind>/<kind>_<number>.jpg`.

    Each of the 30 kinds of scenes has four images: three for training, and the fourth for testing.

    Args:
        data_dir: folder that contains `remote_sensing`. None means the NOISEWORKS_DATA directory.
    """

    channels = 3

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        folder = data_directory(self.data_dir, "AIDThumbnails") / "remote_sensing" / "aid_150"
        every = [stem_of(name) for name in image_files(folder, "AIDThumbnails")]
        chosen = [name for name in every if name.endswith("_4") == (split != "training")]
        return Images(chosen, read_images(folder, [f"{name}.jpg" for name in chosen], self.channels))
