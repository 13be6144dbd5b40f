"""PASCAL VOC 2012 for segmentation: photographs with objects of 20 categories, and the masks of a weaker method."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import VOCSegmentation as TorchvisionVOC

from datamodules.corruptions.mask_noise import MaskNoise
from datamodules.files.data_directory import data_directory, download_directory
from datamodules.loading.augmentation import sample_uniform
from datamodules.loading.colours import jittered
from datamodules.loading.seeded_batches import RequestedSet
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.mask_files import MaskFiles, ScaledCrop

ORIGIN = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"


class VOCSegmentation(LabelledMasks):
    """PASCAL VOC 2012 in torchvision's layout, `VOCdevkit/VOC2012`. The 1,449 images of `val` validate and test, whole.

    Training images are scaled at random, cut to a square, mirrored, and changed in colour. Where the square reaches
    beyond an image it has ImageNet's mean colour and is ignored. As the ADELE authors' code, except that lengths are
    scaled with antialiasing, the nearest pixel of a mask is that of pixel centres, changes of colour are no whole
    numbers, and also the surroundings change colour.

    Args:
        data_dir: folder that holds `VOCdevkit`, or that itself; None looks where NOISEWORKS_DATA points.
        pseudo_label_dir: folder of the masks to train on, `<image>.png`, as an image-level method (AffinityNet, SEAM)
            writes them: one channel or a palette, 255 for ignored pixels. None trains on the true masks, made wrong by
            `mask_noise`. True masks, of `SegmentationClassAug` or else `SegmentationClass`, go along for metrics.
        train_list: text file with the training images, a name or path in each line, such as the 10,582 of
            `trainaug.txt`; None takes the 1,464 of `ImageSets/Segmentation/train.txt`.
        batch_size: training images of a step over all processes.
        mask_noise: what makes the true masks wrong; None leaves them.
        crop_size: side of the square that a training image is cut to, in pixels.
        min_scale: least factor of an image's lengths.
        max_scale: greatest factor of an image's lengths.
        hue: greatest change of hue, in degrees; the authors' 10 steps of OpenCV's 180 are 20.
        saturation: greatest change of saturation, in [0, 1]; the authors' is 10/255.
        value: greatest change of value, in [0, 1]; the authors' is 10/255.
        flip: mirror half of the training images.
        evaluation_batch_size: images of an evaluation batch over all processes; smaller ones are filled up to the
            largest of their batch, which a network may see. None takes one image for each process.
        num_workers: loader processes; None takes one for each free core, up to 8.
        prefetch_factor: batches that each loader process reads ahead.
        download: fetch the images and masks (2 GB), not the augmented list.
        seed: of augmentation, noise and order; None takes `seed_everything`.

    Raises:
        FileNotFoundError: if a folder, a list or a file is missing, saying what was expected where.
        ValueError: if an argument is out of range, or both `pseudo_label_dir` and `mask_noise` are given.
    """

    num_classes = 21
    class_names = [  # noqa: RUF012 (as its base declares it)
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    ]

    def __init__(
        self,
        data_dir: str | None = None,
        pseudo_label_dir: str | None = None,
        train_list: str | None = None,
        batch_size: int = 10,
        mask_noise: MaskNoise | None = None,
        crop_size: int = 448,
        min_scale: float = 0.5,
        max_scale: float = 1.5,
        hue: float = 20.0,
        saturation: float = 10 / 255,
        value: float = 10 / 255,
        flip: bool = True,
        evaluation_batch_size: int | None = None,
        num_workers: int | None = None,
        prefetch_factor: int = 2,
        download: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, mask_noise, evaluation_batch_size, num_workers, prefetch_factor, seed)
        if pseudo_label_dir is not None and mask_noise is not None:
            raise ValueError("pseudo_label_dir gives wrong masks and mask_noise makes them: give one of the two")
        for key, greatest, most in (("hue", hue, 180), ("saturation", saturation, 1), ("value", value, 1)):
            if not 0 <= greatest <= most:
                raise ValueError(f"{key} must be in [0, {most}], got {greatest}")
        self.crop = ScaledCrop(crop_size, min_scale, max_scale)
        self.image_shape = (3, crop_size, crop_size)
        self.data_dir = data_dir
        self.pseudo_label_dir = pseudo_label_dir
        self.train_list = train_list
        self.colours = (hue, saturation, value)
        self.flip = flip
        self.download = download
        self._one_image_each = evaluation_batch_size is None

    def prepare_data(self) -> None:
        if self.download and self._found(download_directory(self.data_dir)) is None:
            TorchvisionVOC(download_directory(self.data_dir), "2012", "train", download=True)

    @staticmethod
    def _found(directory: Path) -> Path | None:
        places = [directory / part for part in ("VOCdevkit/VOC2012", "VOC2012", "")]
        return next((place for place in places if (place / "JPEGImages").is_dir()), None)

    def _root(self) -> Path:
        directory = data_directory(self.data_dir, "PASCAL VOC 2012")
        root = self._found(directory)
        if root is None:
            raise FileNotFoundError(
                f"PASCAL VOC 2012: found no {directory / 'VOCdevkit' / 'VOC2012' / 'JPEGImages'}; extract the archive "
                f"of {ORIGIN} there, or set data.download to true to fetch it"
            )
        return root

    def read_training(self) -> MaskFiles:
        root = self._root()
        names = listed_names(Path(self.train_list).expanduser() if self.train_list else split_file(root, "train"))
        truth = [root / "SegmentationClassAug", root / "SegmentationClass"]
        if self.pseudo_label_dir is not None:
            given = Path(self.pseudo_label_dir).expanduser()
            if not given.is_dir():
                raise FileNotFoundError(
                    f"pseudo_label_dir {given} does not exist; expected the folder with <image>.png for each training "
                    "image, as the method that made them writes it"
                )
            return MaskFiles(root / "JPEGImages", given, names, self.num_classes, truth, self.crop)
        folder = truth[0] if truth[0].is_dir() and self.train_list is not None else truth[1]
        return MaskFiles(root / "JPEGImages", folder, names, self.num_classes, crop=self.crop, noise=self.mask_noise)

    def read_validation(self) -> MaskFiles:
        return self.read_test()

    def read_test(self) -> MaskFiles:
        root = self._root()
        names = listed_names(split_file(root, "val"))
        return MaskFiles(root / "JPEGImages", root / "SegmentationClass", names, self.num_classes)

    def evaluation_loader(self, samples: RequestedSet) -> DataLoader:
        if self._one_image_each:
            self.evaluation_batch_size = self.processes()[1]
        return super().evaluation_loader(samples)

    def augmented(self, batch: dict[str, Any], visit: int) -> dict[str, Any]:
        """Changes colours and mirrors images with their masks."""
        uniform = sample_uniform(self.seed, visit, batch["index"], count=4)
        if any(self.colours):
            batch["image"] = 255 * jittered(batch["image"].float() / 255, uniform[:, :3], *self.colours)
        if self.flip:
            mirror = uniform[:, 3] < 0.5
            for key in ("image", "label", "original_label", "clean_label"):
                if (whole := batch.get(key)) is not None:
                    chosen = mirror.view(-1, *[1] * (whole.ndim - 1))
                    batch[key] = torch.where(chosen, whole.flip(-1), whole)
        return batch


def split_file(root: Path, split: str) -> Path:
    """The list of a split's images."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def listed_names(path: Path) -> list[str]:
    """Names of images from a list: the first word of each line, without folder and suffix.

    Raises:
        FileNotFoundError: if there is no list.
        ValueError: if it is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a text file with one image's name in each line")
    names = [Path(words[0]).stem for line in path.read_text().splitlines() if (words := line.split())]
    if not names:
        raise ValueError(f"{path} names no image; expected one name in each line")
    return names
