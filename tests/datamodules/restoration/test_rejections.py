import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.corruptions.image_noise import Gaussian
from datamodules.corruptions.operators import AverageDownsampling, PhaseRetrieval
from datamodules.restoration.camera_pairs import CC, FMD, SIDD
from datamodules.restoration.folder_sets import (
    BSD68,
    PairFolders,
    ScaledFolders,
)
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import PatchSampling, Together
from datamodules.restoration.measured_images import MeasuredImages
from datamodules.restoration.noisy_folder import NoisyFolder
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.raw_pairs import SID, ELDPairs
from datamodules.restoration.reduced_images import ReducedImages
from tests.datamodules.restoration.pictures import written
from tests.datamodules.restoration.test_image_pairs import NOISY, Few
from tests.datamodules.restoration.test_measured_images import Five
from tests.datamodules.restoration.test_raw_pairs import raw, sid
from tests.rejections import Row, rejections


def folders(files: list[str], **arguments: str) -> Callable[[Path], object]:
    """Return a function that reads pairs from folders; the name of a file encodes what is special about it."""

    def read(root: Path) -> object:
        for file in files:
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".txt":
                path.touch()
            else:
                Image.fromarray(np.zeros((8 if "large" in file else 6, 5, 3), np.uint8)).save(path)
        return PairFolders(**{key: str(root / value) for key, value in arguments.items()}).images("test")

    return read


def known(kind: Any, missing: int) -> Callable[[Path], object]:
    """Return a function that reads a known dataset whose images all have a wrong size, and without `missing` images."""

    def read(root: Path) -> object:
        written(root / kind.folders[0], [f"{number}.png" for number in range(kind.count - missing)])
        return kind(str(root)).images("test")

    return read


def noisy_folder(*files: str) -> Callable[[Path], object]:
    def read(root: Path) -> object:
        for file in files:
            (root / "images" / file).parent.mkdir(parents=True)
            (root / "images" / file).touch()
        return NoisyFolder(str(root / "images"))

    return read


def two_of_one_name(root: Path) -> object:
    written(root, ["a.png", "a.jpg"])
    return NoisyFolder(str(root))


def together_with_a_folder(root: Path, clean: bool) -> object:
    written(root, ["a.png"])
    pairs = PairFolders(str(root) if clean else None, str(root))
    return Together([pairs, Photographs(8, colour=True)]).images("training")


def scaled(root: Path, name: str, height: int) -> object:
    written(root / "GT", ["a.png"], height=16, width=12)
    written(root / "LR", [name], height=height, width=3)
    return ScaledFolders(str(root / "GT"), str(root / "LR")).images("training")


def eld(**arguments: Any) -> Callable[[Path], object]:
    return lambda root: ELDPairs(str(root), **arguments).images("test")


def raw_pairs(split: Any = "training", ratio: int | None = None, where: str = "", **exposures: Any) -> Any:
    """Return a call that reads SID with changed long exposures, keyed by number; None deletes an exposure."""

    def read(root: Path) -> object:
        sid(root)
        for number, levels in exposures.items():
            path = root / "SID" / "Sony" / "long" / f"0000{number[1:]}_00_10s.npz"
            path.unlink() if levels is None else raw(path, **levels)
        return SID(str(root / where), **({} if ratio is None else {"ratio": ratio})).images(split)

    return read


def set_up(stage: str, **settings: Any) -> Callable[[Path], object]:
    return lambda root: ImagePairs(**settings, patches=PatchSampling(size=17)).setup(stage)


def absent(kind: Any, split: str, message: str) -> Row:
    pattern = f"{kind.__name__}: .*{re.escape(message)}"
    return f"{kind.__name__} {split} missing", lambda root: kind(str(root)).images(split), FileNotFoundError, pattern


# fmt: off
REJECTED: list[Row] = [
    absent(CC, "test", "CC does not exist"),
    absent(SIDD, "training", "no image *_NOISY_SRGB_*.PNG in "),
    absent(FMD, "training", "<type>/raw/<field of view>"),
    ("PairFolders noisy alone",
     folders(["clean/a.png", "noisy/a.png", "noisy/b.png"], clean_dir="clean", noisy_dir="noisy"), ValueError,
     "noisy: b has a noisy image but no clean counterpart"),
    ("PairFolders sizes", folders(["clean/a.png", "noisy/large/a.png"], clean_dir="clean", noisy_dir="noisy/large"),
     ValueError, r"a: the clean image has the shape \[3, 6, 5\], but the noisy image has \[3, 8, 5\]"),
    ("BSD68 missing", lambda root: BSD68(str(root)).images("test"), FileNotFoundError,
     rf"BSD68: no images in .*{BSD68.folders[0]}.*set data_dir"),
    ("BSD68 count", known(BSD68, missing=1), ValueError, f"contains {BSD68.count - 1} images, but BSD68 has"),
    ("BSD68 size", known(BSD68, missing=0), ValueError, r"0.png has 6 x 5 pixels; expected"),
    ("Together channels", lambda root: Together([Photographs(8), Photographs(8, colour=True)]).images("training"),
     ValueError, "same number of channels"),
    ("Together noisy and clean", lambda root: together_with_a_folder(root, clean=False), ValueError,
     "some datasets have only clean images"),
    ("ImagePairs patch_size", set_up("fit", training=Few(), noise=Gaussian()), ValueError,
     "Few: d has 16 x 16 pixels, less than data.patches.size 17"),
    ("ImagePairs training", set_up("fit", noise=Gaussian()), ValueError, "data.training is not given"),
    ("ImagePairs noise_samples", set_up("fit", training=Few(NOISY), noise_samples="two"), ValueError,
     "data.noise_samples two needs a noise model: set data.noise"),
    ("ImagePairs test_noise", set_up("test", test=Few()), ValueError,
     "Few has only clean images: set data.noise or data.test_noise"),
    ("ImagePairs noise", set_up("fit", training=Few()), ValueError, "Few has only clean images: set data.noise"),
    ("ImagePairs noise twice", set_up("fit", training=Few(NOISY), noise=Gaussian()), ValueError,
     "Few has real noisy images: do not set data.noise"),
    ("MeasuredImages predict_dir", lambda root: MeasuredImages(PhaseRetrieval(), predict_dir="x"), ValueError,
     "measurements of PhaseRetrieval are not images"),
    ("MeasuredImages noisy", lambda root: MeasuredImages(AverageDownsampling(2), Five(noisy=True)).set_up_test(),
     ValueError, "Five has only noisy images"),
    ("NoisyFolder unreadable", noisy_folder("a.png"), ValueError,
     "no image can be read: .*a.png cannot be read as an image"),
    ("NoisyFolder names", two_of_one_name, ValueError, "several images named a"),
    ("SID ratio", raw_pairs("test", ratio=250), ValueError, "no pair in .* has the ratio 250; the ratios are 100, 300"),
    ("SID levels", raw_pairs(_1={"size": 10, "white": 4000}), ValueError, "must be the same in all long exposures"),
    ("SID sizes", raw_pairs("test", _1={"size": 10, "white": 4000}), ValueError,
     r"0.1s.npz has \[4, 4, 6\] packed pixels, but .* has \[4, 5, 7\]"),
    ("ELDPairs missing", eld(), FileNotFoundError, "no folder scene-1...scene-10"),
    ("ScaledFolders sizes", lambda root: scaled(root, "a.png", height=5), ValueError,
     r"a: .*the clean sides must be 4 times as long"),
    ("ImagePairs size of patches of a reduced set",
     lambda root: ImagePairs(ReducedImages(Photographs(32)), patches=PatchSampling(10)),
     ValueError, r"patches\.size must be a multiple of 4.*got 10"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
