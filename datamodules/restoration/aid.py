"""Aerial images of the set AID, as super-resolution trains and tests on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.files.data_directory import data_directory
from datamodules.files.file_pairs import stem_of
from datamodules.restoration.image_folders import image_files, read_images
from datamodules.restoration.images import Images, PairSet, Split


class AID(PairSet):
    """Aerial images of 30 kinds of scenes, `AID/<Class>/<class>_<number>.jpg`, their centres of 512 x 512 pixels.

    Of each kind 130 are chosen, of which 100 are trained on and 30 tested on (AID900). The authors chose at random and
    published no list; here the choice follows from the names alone: those that are first in the order of a fixed
    permutation of the sorted names, so it is the same on every machine.

    Args:
        data_dir: folder that holds `AID`; None looks where NOISEWORKS_DATA points.

    Raises:
        FileNotFoundError: if the images are missing, saying what was expected where.
        ValueError: if a kind has fewer than 130 images, or an image is smaller than 512 x 512.

    Source: Xia et al., AID: A Benchmark Data Set for Performance Evaluation of Aerial Scene Classification, IEEE TGRS
    2017.
    """

    channels = 3
    side = 512
    trained, tested = 100, 30

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        folder = data_directory(self.data_dir, "AID") / "AID"
        chosen = self.selection(image_files(folder, "AID"))["training" if split == "training" else "test"]
        images = []
        for name, image in zip(chosen, read_images(folder, chosen, self.channels), strict=True):
            top, left = ((side - self.side) // 2 for side in image.shape[1:])
            if min(top, left) < 0:
                raise ValueError(f"{name} has {image.shape[1]} x {image.shape[2]} pixels; AID's have 600 x 600")
            images.append(np.ascontiguousarray(image[:, top : top + self.side, left : left + self.side]))
        return Images([stem_of(name) for name in chosen], images)

    def selection(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Choose images to train and to test on from all names, `<Class>/<file>`."""
        kinds: dict[str, list[str]] = {}
        for name in sorted(names):
            kinds.setdefault(Path(name).parts[0], []).append(name)
        chosen: dict[str, list[str]] = {"training": [], "test": []}
        for kind, own in kinds.items():
            if len(own) < self.trained + self.tested:
                raise ValueError(f"{kind} has {len(own)} images; {self.trained + self.tested} of each kind are chosen")
            order = np.random.default_rng(0).permutation(len(own))
            chosen["training"] += [own[place] for place in order[: self.trained]]
            chosen["test"] += [own[place] for place in order[self.trained : self.trained + self.tested]]
        return chosen
