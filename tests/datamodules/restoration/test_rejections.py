import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datamodules.corruptions.image_noise import Gaussian
from datamodules.corruptions.operators import AverageDownsampling, PhaseRetrieval
from datamodules.restoration.camera_pairs import CC, DND, FMD, SIDD, PolyU, SIDDBenchmark
from datamodules.restoration.folder_sets import (
    BSD68,
    CBSD68,
    Kodak24,
    PairFolders,
    ScaledFolders,
    Set12,
    Train400,
    Urban100,
)
from datamodules.restoration.image_pairs import ImagePairs
from datamodules.restoration.images import Images, PatchSampling, Together
from datamodules.restoration.measured_images import MeasuredImages
from datamodules.restoration.noisy_folder import NoisyFolder
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.raw_pairs import SID, ELDPairs
from datamodules.restoration.raw_photographs import RawPhotographs
from datamodules.restoration.reduced_images import ReducedImages
from tests.datamodules.restoration.pictures import written
from tests.datamodules.restoration.test_image_pairs import NOISY, Few
from tests.datamodules.restoration.test_measured_images import Five
from tests.datamodules.restoration.test_raw_pairs import raw, sid
from tests.rejections import Row, rejections

KNOWN: list[Any] = [BSD68, Set12, Train400, CBSD68, Kodak24, Urban100]


def of_one_pair(root: Path) -> object:
    written(root / "CC", ["a_real.png", "a_mean.png"])
    return CC(str(root)).images("test")


def blocks_of_another_shape(root: Path) -> object:
    savemat(root / "BenchmarkNoisyBlocksSrgb.mat", {"BenchmarkNoisyBlocksSrgb": np.zeros((4, 4))})
    return SIDDBenchmark(str(root)).images("test")


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
    absent(PolyU, "test", "PolyU does not exist"),
    absent(SIDD, "training", "no image *_NOISY_SRGB_*.PNG in "),
    absent(SIDD, "test", "found neither "),
    absent(SIDDBenchmark, "test", "BenchmarkNoisyBlocksSrgb.mat does not exist"),
    absent(DND, "test", "images_srgb does not exist"),
    absent(FMD, "training", "<type>/raw/<field of view>"),
    absent(FMD, "test", "test_mix/raw is not a folder"),
    ("CC count", of_one_pair, ValueError, "has 1 pairs, but CC has 15"),
    ("SIDDBenchmark shape", blocks_of_another_shape, ValueError,
     r"is float64 \[4, 4\]; expected uint8 \[40, 32, 256, 256, 3\]"),
    ("PairFolders none", folders([]), ValueError,
     "PairFolders needs noisy_dir, clean_dir or both: set for example --data.training.noisy_dir MY_IMAGES"),
    ("PairFolders missing", folders([], clean_dir="clean"), FileNotFoundError,
     "clean_dir: .*clean does not exist; give a file"),
    ("PairFolders without images", folders(["clean/a.txt"], clean_dir="clean"), FileNotFoundError,
     "clean_dir: .*clean holds no image"),
    ("PairFolders noisy alone",
     folders(["clean/a.png", "noisy/a.png", "noisy/b.png"], clean_dir="clean", noisy_dir="noisy"), ValueError,
     "noisy: b has a noisy image but no clean counterpart"),
    ("PairFolders clean alone",
     folders(["clean/a.png", "noisy/a.png", "clean/c.png"], clean_dir="clean", noisy_dir="noisy"), ValueError,
     "c has a clean image but no noisy counterpart"),
    ("PairFolders sizes", folders(["clean/a.png", "noisy/large/a.png"], clean_dir="clean", noisy_dir="noisy/large"),
     ValueError, r"a: the clean image has the shape \[3, 6, 5\], but the noisy image has \[3, 8, 5\]"),
    *[
        (
            f"{kind.__name__} missing",
            lambda root, kind=kind: kind(str(root)).images("test"),
            FileNotFoundError,
            rf"{kind.__name__}: no images in .*{kind.folders[0]}.*set data_dir",
        )
        for kind in KNOWN
    ],
    *[
        (
            f"{kind.__name__} count",
            known(kind, missing=1),
            ValueError,
            f"contains {kind.count - 1} images, but {kind.__name__} has {kind.count}",
        )
        for kind in KNOWN
    ],
    *[
        (f"{kind.__name__} size", known(kind, missing=0), ValueError, r"0.png has 6 x 5 pixels; expected")
        for kind in KNOWN
        if kind.sizes
    ],
    ("Together channels", lambda root: Together([Photographs(8), Photographs(8, colour=True)]).images("training"),
     ValueError, "same number of channels"),
    ("Together noisy and clean", lambda root: together_with_a_folder(root, clean=False), ValueError,
     "some datasets have only clean images"),
    ("Together pairs and clean", lambda root: together_with_a_folder(root, clean=True), ValueError,
     "some datasets have noisy"),
    ("ImagePairs patch_size", set_up("fit", training=Few(), noise=Gaussian()), ValueError,
     "Few: d has 16 x 16 pixels, less than data.patches.size 17"),
    ("ImagePairs training", set_up("fit", noise=Gaussian()), ValueError, "data.training is not given"),
    ("ImagePairs test", set_up("test", noise=Gaussian()), ValueError, "data.test is not given"),
    ("ImagePairs noise_samples", set_up("fit", training=Few(NOISY), noise_samples="two"), ValueError,
     "data.noise_samples two needs a noise model: set data.noise"),
    ("ImagePairs test_noise", set_up("test", test=Few()), ValueError,
     "Few has only clean images: set data.noise or data.test_noise"),
    ("ImagePairs noise", set_up("fit", training=Few()), ValueError, "Few has only clean images: set data.noise"),
    ("ImagePairs noise twice", set_up("fit", training=Few(NOISY), noise=Gaussian()), ValueError,
     "Few has real noisy images: do not set data.noise"),
    ("ImagePairs shapes", set_up("test", test=Few(NOISY[::-1])), ValueError, "a: the clean image has the shape"),
    ("Images empty", lambda root: Images([], []), ValueError, "a dataset has no images"),
    ("MeasuredImages predict_dir", lambda root: MeasuredImages(PhaseRetrieval(), predict_dir="x"), ValueError,
     "measurements of PhaseRetrieval are not images"),
    ("MeasuredImages noisy", lambda root: MeasuredImages(AverageDownsampling(2), Five(noisy=True)).set_up_test(),
     ValueError, "Five has only noisy images"),
    ("NoisyFolder without images", noisy_folder("none/a.txt"), FileNotFoundError,
     "holds no image; expected files that end with"),
    ("NoisyFolder unreadable", noisy_folder("a.png"), ValueError,
     "no image can be read: .*a.png cannot be read as an image"),
    ("NoisyFolder missing", noisy_folder(), FileNotFoundError, "does not exist; give a file, a folder, or a"),
    ("NoisyFolder names", two_of_one_name, ValueError, "several images named a"),
    ("SID ratio", raw_pairs("test", ratio=250), ValueError, "no pair in .* has the ratio 250; the ratios are 100, 300"),
    ("SID missing", raw_pairs("test", where="SID"), FileNotFoundError, "Sony_test_list.txt does not exist"),
    ("SID levels", raw_pairs(_1={"size": 10, "white": 4000}), ValueError, "must be the same in all long exposures"),
    ("SID sizes", raw_pairs("test", _1={"size": 10, "white": 4000}), ValueError,
     r"0.1s.npz has \[4, 4, 6\] packed pixels, but .* has \[4, 5, 7\]"),
    ("SID white", raw_pairs(_1={"size": 10, "white": 4000}, _2={"white": 600}), ValueError,
     r"00002_00_10s.npz has the value \d+, above the white level 600"),
    ("SID exposure missing", raw_pairs(_1=None, _2={"white": 600}), FileNotFoundError,
     "00001_00_10s does not exist with any of the suffixes"),
    ("ELDPairs split", lambda root: ELDPairs(str(root)).images("training"), ValueError, "ELD is a test set"),
    ("ELDPairs missing", eld(), FileNotFoundError, "no folder scene-1...scene-10"),
    ("RawPhotographs image_size", lambda root: RawPhotographs(25), ValueError,
     "image_size must be even, since Bayer cells have two pixels per side, got 25"),
    ("ScaledFolders sizes", lambda root: scaled(root, "a.png", height=5), ValueError,
     r"a: .*the clean sides must be 4 times as long"),
    ("ScaledFolders names", lambda root: scaled(root, "b.png", height=4), ValueError,
     "has a large image but no small counterpart"),
    ("ImagePairs size of patches of a reduced set",
     lambda root: ImagePairs(ReducedImages(Photographs(32)), patches=PatchSampling(10)),
     ValueError, r"patches\.size must be a multiple of 4.*got 10"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
