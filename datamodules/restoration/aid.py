"""Aerial images of the set AID, as super-resolution trains and tests on them."""

from pathlib import Path

import numpy as np
import yaml

from datamodules.files.data_directory import data_directory
from datamodules.files.file_pairs import stem_of
from datamodules.restoration.folder_sets import read_images
from datamodules.restoration.images import Images, PairSet, Split

LIST = Path(__file__).with_name("aid.yaml")


def selection() -> dict[str, list[str]]:
    """Read which images are trained on and tested on, `<Kind>/<kind>_<number>.jpg`."""
    chosen: dict[str, dict[str, list[int]]] = yaml.safe_load(LIST.read_text())
    return {
        split: [f"{kind}/{kind.lower()}_{number}.jpg" for kind, numbers in kinds.items() for number in numbers]
        for split, kinds in chosen.items()
    }


class AID(PairSet):
    """Aerial images of 30 kinds of scenes, `AID/<Kind>/<kind>_<number>.jpg`, their centres of 512 x 512 pixels.

    Of each kind 100 are trained on and 30 tested on (AID900), as listed in `aid.yaml` beside this file. The authors
    chose at random and published no list: this one was drawn once.

    Args:
        data_dir: folder that holds `AID`; None looks where NOISEWORKS_DATA points.

    Raises:
        FileNotFoundError: if a listed image is missing, saying what was expected where.
        ValueError: if an image is smaller than 512 x 512.

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
                f"extract AID to {folder}, one folder for each of its 30 kinds"
            )
        images = []
        for name, image in zip(chosen, read_images(folder, chosen, self.channels), strict=True):
            top, left = ((side - self.side) // 2 for side in image.shape[1:])
            if min(top, left) < 0:
                raise ValueError(f"{name} has {image.shape[1]} x {image.shape[2]} pixels; AID's have 600 x 600")
            images.append(np.ascontiguousarray(image[:, top : top + self.side, left : left + self.side]))
        return Images([stem_of(name) for name in chosen], images)
