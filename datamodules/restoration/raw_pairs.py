"""Raw low-light images: pairs of a short and a long exposure.

The short exposure is brightened by the exposure ratio.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.arguments import at_least, one_of
from datamodules.files.bayer import find_raw, read_raw
from datamodules.files.data_directory import data_directory
from datamodules.files.text_files import read_text
from datamodules.restoration.images import Images, PairSet, Split

EXPOSURE = re.compile(r"_([\d.]+)s$")
"""Last part of SID's file names: the exposure time in seconds."""


def read_amplified_pair(
    short: Path, long: Path, ratio: float, crop: int | None, xtrans: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read a pair of packed raw images in [0, 1]. Brighten the short exposure, whose values may then exceed 1.

    Args:
        short: file of the short exposure.
        long: file of the long exposure.
        ratio: long exposure time divided by short exposure time.
        crop: height and width of the centre crop, in packed pixels. None means no crop.
        xtrans: whether the sensor is an X-Trans sensor, with nine channels.

    Returns:
        The noisy and the clean image, both float32 of shape `[C, H, W]`, with 4 channels, or 9 for X-Trans. The third
        array, `[4, 3]`, contains the white-balance gains and colour matrix of the long exposure. It is None if they are
        unknown.
    """
    raws = [read_raw(path, xtrans) for path in (short, long)]
    noisy, clean = (raw.pack().astype(np.float32) / (raw.white - raw.black) for raw in raws)
    if noisy.shape != clean.shape:
        raise ValueError(f"{short} has {list(noisy.shape)} packed pixels, but {long} has {list(clean.shape)}")
    if crop is not None:
        top, left = ((extent - crop) // 2 for extent in clean.shape[1:])
        noisy, clean = (each[:, top : top + crop, left : left + crop] for each in (noisy, clean))
    return np.ascontiguousarray(noisy * np.float32(ratio)), np.ascontiguousarray(clean), raws[1].rendering


def images_of(names: list[str], read: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]) -> Images:
    """Combine results of `read_amplified_pair`. White-balance gains and colour matrices stay if all files have them."""
    noisy, clean, rendering = ([each[place] for each in read] for place in range(3))
    known = None if any(each is None for each in rendering) else rendering
    return Images(names, clean, noisy, 1, rendering=known)  # type: ignore[arg-type]


class SID(PairSet):
    """See-in-the-dark (Chen et al., CVPR 2018): long exposures or pairs for training, and pairs for testing.

    Folders have the names that the authors use. Images `<number>_00_<seconds>s.ARW` are in `SID/Sony/short` and
    `SID/Sony/long`. Each line of `SID/Sony_train_list.txt`, `Sony_val_list.txt` and `Sony_test_list.txt` names the file
    of a short exposure and the file of a long exposure. If `camera` is Fuji, the folder and the lists of the Fujifilm
    camera are read (`.RAF`). Images of its X-Trans sensor have nine channels, see `datamodules.files.xtrans`. `rawpy`
    reads camera files. A `.npz` file with `bayer`, `black`, `white` and `pattern` can replace any camera file.

    By default, the training set consists of every long exposure in the training list, uncropped. These images take 4
    GB, and an epoch uses each of them once. If `pairs` is true, it consists of the pairs in the training list. The
    pairs take 27 GB of memory, and twice as much memory while they are read. Patches are cropped at random positions in
    every epoch, whereas the authors of ELD cut patches once along a grid. The short exposures of pairs are brightened
    by the exposure ratio, at most 300.

    Args:
        data_dir: folder that contains `SID`. None means the NOISEWORKS_DATA directory.
        ratio: exposure ratio of the selected pairs: 100, 250 or 300. None selects all pairs.
        crop: height and width of the centre crop of test images, in packed pixels. The tables in the ELD paper use 512.
            None means whole images.
        pairs: whether to train on pairs of a short and a long exposure. `ratio` selects the pairs. False trains on long
            exposures only.
        camera: Sony (Bayer sensor) or Fuji (X-Trans sensor).
    """

    channels = 4

    def __init__(
        self,
        data_dir: str | None = None,
        ratio: Literal[100, 250, 300] | None = None,
        crop: int | None = 512,
        pairs: bool = False,
        camera: Literal["Sony", "Fuji"] = "Sony",
    ) -> None:
        one_of((None, 100, 250, 300), ratio=ratio)
        one_of(("Sony", "Fuji"), camera=camera)
        at_least(1, crop=crop)
        self.data_dir = data_dir
        self.ratio = ratio
        self.crop = crop
        self.pairs = pairs
        self.camera = camera
        self.channels = 4 if camera == "Sony" else 9

    def images(self, split: Split) -> Images:
        root = data_directory(self.data_dir, "SID") / "SID"
        folder, xtrans = root / self.camera, self.camera == "Fuji"
        file = root / f"{self.camera}_{ {'training': 'train', 'validation': 'val', 'test': 'test'}[split] }_list.txt"
        if not file.is_file():
            raise FileNotFoundError(f"SID: {file} does not exist. Download the set from github.com/cchen156/"
                                    f"Learning-to-See-in-the-Dark")  # fmt: skip
        pairs = listed_pairs(file)
        if split == "training" and not self.pairs:
            names = sorted({long for _, long in pairs})
            raws = [read_raw(find_raw(folder / "long", name), xtrans) for name in names]
            if len(ranges := {raw.white - raw.black for raw in raws}) > 1:
                raise ValueError(
                    f"SID: white minus black level must be the same in all long exposures, got {sorted(ranges)}"
                )
            return Images(names, [raw.pack() for raw in raws], data_range=ranges.pop())
        rated = [(short, long, light_ratio(short, long)) for short, long in pairs]
        chosen = [each for each in rated if self.ratio in (None, round(each[2]))]
        if not chosen:
            found = ", ".join(str(round(ratio)) for ratio in sorted({ratio for *_, ratio in rated}))
            raise ValueError(f"SID: no pair in {file} has the ratio {self.ratio}; the ratios are {found}")
        crop = None if split == "training" else self.crop
        read = [
            read_amplified_pair(find_raw(folder / "short", short), find_raw(folder / "long", long), ratio, crop, xtrans)
            for short, long, ratio in chosen
        ]
        return images_of([short for short, *_ in chosen], read)


def listed_pairs(file: Path) -> list[list[str]]:
    """Read the file names of short and long exposures, without suffixes, from one of SID's lists."""
    pairs = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not (words := line.split()):
            continue
        if len(words) < 2:
            raise ValueError(f"{file}, line {number}: expected a short and a long exposure, got {line[:80]!r}")
        pairs.append([Path(word).stem for word in words[:2]])
    if not pairs:
        raise ValueError(f"{file} lists no pair")
    return pairs


def light_ratio(short: str, long: str) -> float:
    """Compute the exposure ratio of two SID files from the times in their names. Ratios above 300 become 300."""
    seconds = []
    for name in (short, long):
        if not (found := EXPOSURE.search(name)):
            raise ValueError(f"SID: {name} does not end with its exposure, such as _0.1s")
        seconds.append(float(found[1]))
    if not min(seconds) > 0:
        raise ValueError(f"SID: the name of {short} or {long} ends with an exposure of 0 seconds")
    return min(seconds[1] / seconds[0], 300.0)


class ELDPairs(PairSet):
    """Ten low-light scenes taken with one camera, for testing (Wei et al., TPAMI 2022).

    The images `ELDPairs/<camera>/scene-<1..10>/IMG_0001...0016` are raw files that `rawpy` reads, or `.npz` files as
    described in `SID`. Images 1, 6, 11 and 16 are references at ISO 100. The other images have ISO 800, 1600 and 3200.
    For each ISO value, there are four images: the light is reduced by a factor of 1, 10, 100 and 200, respectively. The
    nominal factor is used as the exposure ratio. The authors' code instead computes the ratio from the exposure times
    in the files.

    Args:
        data_dir: folder that contains `ELDPairs`. None means the NOISEWORKS_DATA directory.
        camera: name of the camera: SonyA7S2, NikonD850, CanonEOS70D or CanonEOS700D.
        factor: factor by which the light of the test images is reduced: 1, 10, 100 or 200.
    """

    channels = 4

    def __init__(self, data_dir: str | None = None, camera: str = "SonyA7S2", factor: int = 100) -> None:
        one_of((1, 10, 100, 200), factor=factor)
        one_of(("SonyA7S2", "NikonD850", "CanonEOS70D", "CanonEOS700D"), camera=camera)
        self.data_dir = data_dir
        self.camera = camera
        self.factor = factor

    def images(self, split: Split) -> Images:
        if split == "training":
            raise ValueError("ELD is a test set; train on SID's long exposures")
        root = data_directory(self.data_dir, "ELDPairs") / "ELDPairs" / self.camera
        scenes = sorted(root.glob("scene-*"), key=lambda path: (len(path.name), path.name))
        if not scenes:
            raise FileNotFoundError(f"ELD: no folder scene-1...scene-10 in {root}. The set is linked from "
                                    f"github.com/Vandermode/ELD")  # fmt: skip
        place = (1, 10, 100, 200).index(self.factor) + 2
        names, pairs = [], []
        for scene in scenes:
            for number in (place, place + 5, place + 10):
                reference = min((1, 6, 11, 16), key=lambda one: abs(one - number))
                files = [find_raw(scene, f"IMG_{each:04d}") for each in (number, reference)]
                names.append(f"{scene.name}_IMG_{number:04d}")
                pairs.append(read_amplified_pair(files[0], files[1], self.factor, None))
        return images_of(names, pairs)
