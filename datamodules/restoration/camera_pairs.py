"""Datasets with real noise from cameras and microscopes, with and without ground truth."""

from pathlib import Path

import numpy as np

from datamodules.file_pairs import match_pairs, stem_of
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import image_names
from datamodules.files.limits import to_int64
from datamodules.files.mat_files import read_cells, read_mat
from datamodules.restoration.folder_sets import image_files, read_images
from datamodules.restoration.images import Images, PairSet, Split


class RealPairs(PairSet):
    """Base class of CC and PolyU: pairs of a noisy image `<name>_real.*` and the mean of many shots `<name>_mean.*`.

    Args:
        data_dir: folder that contains the dataset's folder. None means the NOISEWORKS_DATA directory.
    """

    channels = 3
    count: int
    source: str

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        name = type(self).__name__
        folder = data_directory(self.data_dir, name) / name
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{name}: {folder} does not exist; expected <name>_real and <name>_mean images in it. {self.source}"
            )
        files = image_files(folder, name)
        noisy, clean = ([file for file in files if stem_of(file).endswith(end)] for end in ("_real", "_mean"))
        pairs = match_pairs(noisy, clean, folder, lambda stem: stem[: -len("_real")])
        if len(pairs) != self.count:
            raise ValueError(f"{folder} has {len(pairs)} pairs, but {name} has {self.count}")
        return read_pairs(folder, pairs, [stem_of(noisy)[: -len("_real")] for noisy, _ in pairs])


def read_pairs(folder: Path, pairs: list[tuple[str, str]], names: list[str], channels: int = 3) -> Images:
    """Read image pairs from a folder, given the names of the noisy and the clean file of each pair."""
    noisy, clean = (read_images(folder, files, channels) for files in zip(*pairs, strict=True))
    return Images(names, clean, noisy)


class CC(RealPairs):
    """15 image pairs of 512 x 512 pixels from three cameras (Nam et al., CVPR 2016)."""

    count = 15
    source = "The pairs are data/CC of ScoreDVI's repository, github.com/alwaysuu/ScoreDVI."


class PolyU(RealPairs):
    """100 image pairs of 512 x 512 pixels from five cameras (Xu et al., arXiv 1804.02603)."""

    count = 100
    source = "The pairs are data/PolyU of ScoreDVI's repository, github.com/alwaysuu/ScoreDVI."


class SIDD(PairSet):
    """Image pairs from five phones (Abdelhamed et al., CVPR 2018).

    Training uses SIDD-Medium, and testing uses the validation blocks.

    Training reads whole photographs into memory: `SIDD_Medium_Srgb/Data/<scene>/*_NOISY_SRGB_*.PNG` and
    `*_GT_SRGB_*.PNG`. The noisy photographs take 15 GB of memory, or 30 GB together with the ground truth. Validation
    and test images are the 1,280 validation blocks of 256 x 256 pixels. They are read from
    `ValidationNoisyBlocksSrgb.mat` and `ValidationGtBlocksSrgb.mat`. Alternatively, some or all blocks can be image
    files in `SIDD_Val/noisy` and `SIDD_Val/GT`.

    Args:
        data_dir: folder that contains these folders and files. None means the NOISEWORKS_DATA directory.
        ground_truth: whether to also read the clean training images. Unsupervised methods do not need them.
    """

    channels = 3
    source = "The set is at www.eecs.yorku.ca/~kamel/sidd."

    def __init__(self, data_dir: str | None = None, ground_truth: bool = True) -> None:
        self.data_dir = data_dir
        self.ground_truth = ground_truth

    def images(self, split: Split) -> Images:
        directory = data_directory(self.data_dir, "SIDD")
        return self._medium(directory) if split == "training" else self._validation(directory)

    def _medium(self, directory: Path) -> Images:
        folder = directory / "SIDD_Medium_Srgb" / "Data"
        files = image_names(folder) if folder.is_dir() else []
        noisy, clean = ([file for file in files if kind in file] for kind in ("NOISY_SRGB", "GT_SRGB"))
        if not noisy:
            raise FileNotFoundError(f"SIDD: no image *_NOISY_SRGB_*.PNG in {folder} or its subfolders. {self.source}")
        if not self.ground_truth:
            return Images([stem_of(file) for file in noisy], None, read_images(folder, noisy, 3))
        pairs = match_pairs(noisy, clean, folder, lambda stem: stem.replace("NOISY_SRGB", "GT_SRGB"))
        return read_pairs(folder, pairs, [stem_of(noisy) for noisy, _ in pairs])

    def _validation(self, directory: Path) -> Images:
        for folder, kinds in (("SIDD_Val", ("noisy", "GT")), ("", ("SIDD_noisy", "SIDD_clean"))):
            if (directory / folder / kinds[0]).is_dir():
                noisy, clean = (image_files(directory / folder / kind, "SIDD") for kind in kinds)
                pairs = match_pairs(noisy, clean, directory / folder)
                files = [(f"{kinds[0]}/{noisy}", f"{kinds[1]}/{clean}") for noisy, clean in pairs]
                return read_pairs(directory / folder, files, [stem_of(noisy) for noisy, _ in pairs])
        blocks = []
        for kind in ("Noisy", "Gt"):
            key = f"Validation{kind}BlocksSrgb"
            if not (directory / f"{key}.mat").is_file():
                raise FileNotFoundError(
                    f"SIDD: found neither {directory / f'{key}.mat'} nor images in "
                    f"{directory / 'SIDD_Val' / 'noisy'}. {self.source}"
                )
            blocks.append(read_blocks(directory / f"{key}.mat", key))
        return Images(block_names(len(blocks[0])), blocks[1], blocks[0])


def read_blocks(path: Path, key: str) -> list[np.ndarray]:
    """Read SIDD's blocks from a `.mat` file (uint8 `[40, 32, 256, 256, 3]`) into a list of images `[3, 256, 256]`."""
    blocks = read_mat(path, key)
    if blocks.ndim != 5 or blocks.shape[-1] != 3 or blocks.dtype != np.uint8:
        shape = list(blocks.shape)
        raise ValueError(f"{path}: {key} is {blocks.dtype} {shape}; expected uint8 [40, 32, 256, 256, 3]")
    return [np.ascontiguousarray(block.transpose(2, 0, 1)) for block in blocks.reshape(-1, *blocks.shape[2:])]


def block_names(count: int, of_one: int = 32) -> list[str]:
    """Return block names such as `39_31`: a photograph's index and a block's index, both counted from 0."""
    return [f"{block // of_one}_{block % of_one}" for block in range(count)]


class SIDDBenchmark(PairSet):
    """The 1,280 noisy blocks of the SIDD benchmark in `BenchmarkNoisyBlocksSrgb.mat`. No ground truth is public.

    Args:
        data_dir: folder that contains the file. None means the NOISEWORKS_DATA directory.
    """

    channels = 3

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        key = "BenchmarkNoisyBlocksSrgb"
        path = data_directory(self.data_dir, "SIDDBenchmark") / f"{key}.mat"
        if not path.is_file():
            raise FileNotFoundError(f"SIDDBenchmark: {path} does not exist. {SIDD.source}")
        blocks = read_blocks(path, key)
        return Images(block_names(len(blocks)), None, blocks)


class DND(PairSet):
    """The 1,000 noisy crops of 512 x 512 pixels of the Darmstadt Noise Dataset. No ground truth is public.

    The photographs `DND/images_srgb/0001.mat` to `0050.mat` are read with `h5py` and cropped to the boxes in
    `DND/info.mat`. The crops take 3 GB of memory as float32. Alternatively, the crops can be image files in
    `DND/png_srgb`. All files may instead be in `DND/dnd_2017`. The name of a crop consists of the number of the
    photograph and the number of the crop, both counted from 1: `0001_01` to `0050_20`.

    Args:
        data_dir: folder that contains `DND`. None means the NOISEWORKS_DATA directory.
    """

    channels = 3

    def __init__(self, data_dir: str | None = None) -> None:
        self.data_dir = data_dir

    def images(self, split: Split) -> Images:
        directory = data_directory(self.data_dir, "DND")
        for folder in (directory / "DND" / "dnd_2017", directory / "DND"):
            if (folder / "png_srgb").is_dir():
                names = image_files(folder / "png_srgb", "DND")
                return Images([stem_of(name) for name in names], None, read_images(folder / "png_srgb", names, 3))
            if (folder / "images_srgb").is_dir():
                return self._cut_out(folder)
        raise FileNotFoundError(
            f"DND: {directory / 'DND' / 'images_srgb'} does not exist; expected 0001.mat to 0050.mat in it, info.mat "
            f"next to it, or noisy crops as images in {directory / 'DND' / 'png_srgb'}. Download the set from "
            f"noise.visinf.tu-darmstadt.de"
        )

    def _cut_out(self, folder: Path) -> Images:
        names, crops = [], []
        for number, boxes in enumerate(read_cells(folder / "info.mat", "info/boundingboxes"), 1):
            if boxes.ndim != 2 or boxes.shape[1] != 4:
                shape = list(boxes.shape)
                raise ValueError(f"{folder / 'info.mat'} has boxes of shape {shape} for a photograph, not [20, 4]")
            path = folder / "images_srgb" / f"{number:04d}.mat"
            photograph = read_mat(path, "InoisySRGB").astype(np.float32)
            if photograph.ndim != 3 or photograph.shape[2] != 3 or not np.isfinite(photograph).all():
                raise ValueError(f"{path}: InoisySRGB is {list(photograph.shape)}; expected finite numbers [H, W, 3]")
            places = to_int64(boxes, 1, max(photograph.shape), folder / "info.mat", "edge of a box")
            # Coordinates are counted from 1, and the ends are inclusive.
            for crop, (top, left, bottom, right) in enumerate(places, 1):
                if not (top <= bottom <= photograph.shape[0] and left <= right <= photograph.shape[1]):
                    raise ValueError(f"{folder / 'info.mat'}: box {crop} of photograph {number} lies outside {path}")
                names.append(f"{number:04d}_{crop:02d}")
                crops.append(np.ascontiguousarray(photograph[top - 1 : bottom, left - 1 : right].transpose(2, 0, 1)))
        return Images(names, None, crops, data_range=1)


class FMD(PairSet):
    """Grey-scale fluorescence microscopy images, 512 x 512 pixels (Zhang et al., CVPR 2019).

    The test images are in `FMD/test_mix/raw`. Their ground truth is in `FMD/test_mix/gt`, with the same file names.
    The training images are the captures `FMD/<type>/raw/<field of view>/*.png` of all fields of view except the 19th.
    The ground truth of a field of view is `gt/<field of view>/avg50.png`.

    Args:
        data_dir: folder that contains `FMD`. None means the NOISEWORKS_DATA directory.
        captures: number of noisy training captures per field of view, at most 50. The first captures in the order of
            file names are used.
    """

    channels = 1

    def __init__(self, data_dir: str | None = None, captures: int = 50) -> None:
        self.data_dir = data_dir
        self.captures = captures

    def images(self, split: Split) -> Images:
        folder = data_directory(self.data_dir, "FMD") / "FMD"
        if split == "training":
            pairs = self._captures(folder)
        else:
            kinds = ("test_mix/raw", "test_mix/gt")
            noisy, clean = ([f"{kind}/{file}" for file in image_files(folder / kind, "FMD")] for kind in kinds)
            pairs = match_pairs(noisy, clean, folder, lambda stem: stem.split("/", 2)[2])
        return read_pairs(folder, pairs, [stem_of(noisy) for noisy, _ in pairs], channels=1)

    def _captures(self, folder: Path) -> list[tuple[str, str]]:
        pairs = []
        for raw in sorted(folder.glob("*/raw/*")):
            truth = raw.parents[1] / "gt" / raw.name / "avg50.png"
            if raw.name == "19" or raw.parents[1].name == "test_mix":
                continue
            if not truth.is_file():
                raise ValueError(f"FMD: {raw} has no ground truth {truth}")
            names = image_names(raw)[: self.captures]
            pairs += [(str(raw.relative_to(folder) / name), str(truth.relative_to(folder))) for name in names]
        if not pairs:
            raise FileNotFoundError(
                f"FMD: no image in {folder / '<type>' / 'raw' / '<field of view>'}. The set is at "
                f"github.com/yinhaoz/denoising-fluorescence"
            )
        return pairs
