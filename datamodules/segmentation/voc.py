"""PASCAL VOC 2012 segmentation: photographs with 20 object classes, and true masks or pseudo labels."""

from pathlib import Path

from torchvision.datasets import VOCSegmentation as TorchvisionVOC

from datamodules.files.data_directory import data_directory, download_directory
from datamodules.files.text_files import read_text
from datamodules.segmentation.mask_files import MaskFiles
from datamodules.segmentation.mask_sets import MaskSet

ORIGIN = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)"


class VOCSegmentation(MaskSet):
    """PASCAL VOC 2012 dataset in the folder layout of torchvision, `VOCdevkit/VOC2012`.

    Validation and testing use the 1,449 whole images of `val`.

    Args:
        data_dir: folder that contains `VOCdevkit`, or `VOCdevkit` itself. None means the NOISEWORKS_DATA directory.
        pseudo_label_dir: folder of the training masks, such as pseudo labels from AffinityNet or SEAM. A mask
            `<image>.png` has one channel or a palette, and 255 for ignored pixels. None trains on the true masks. If
            pseudo labels are used, metrics also need the true masks. They are read from `SegmentationClassAug` or, if a
            mask is missing there, from `SegmentationClass`.
        train_list: text file with the name or path of one training image per line, such as `trainaug.txt` (10,582
            images). None means `ImageSets/Segmentation/train.txt` (1,464 images).
        download: whether to download missing images and masks (2 GB). The download does not include the list
            `trainaug.txt`.
    """

    num_classes = 21
    image_shape = (3, 500, 500)  # height and width of the largest photographs
    class_names = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )

    def __init__(
        self,
        data_dir: str | None = None,
        pseudo_label_dir: str | None = None,
        train_list: str | None = None,
        download: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.pseudo_label_dir = pseudo_label_dir
        self.train_list = train_list
        self.download = download

    def fetch_missing(self) -> None:
        if self.download and self._find(download_directory(self.data_dir)) is None:
            TorchvisionVOC(download_directory(self.data_dir), "2012", "train", download=True)

    @staticmethod
    def _find(directory: Path) -> Path | None:
        places = [directory / part for part in ("VOCdevkit/VOC2012", "VOC2012", "")]
        return next((place for place in places if (place / "JPEGImages").is_dir()), None)

    def _root(self) -> Path:
        directory = data_directory(self.data_dir, "PASCAL VOC 2012")
        root = self._find(directory)
        if root is None:
            raise FileNotFoundError(
                f"PASCAL VOC 2012: found no {directory / 'VOCdevkit' / 'VOC2012' / 'JPEGImages'}; extract the archive "
                f"{ORIGIN} there, or set data.images.download to true"
            )
        return root

    def training(self) -> MaskFiles:
        root = self._root()
        names = listed_names(Path(self.train_list).expanduser() if self.train_list else split_file(root, "train"))
        truth = [root / "SegmentationClassAug", root / "SegmentationClass"]
        if self.pseudo_label_dir is not None:
            given = Path(self.pseudo_label_dir).expanduser()
            if not given.is_dir():
                raise FileNotFoundError(
                    f"pseudo_label_dir {given} does not exist; expected a folder with <image>.png for each training "
                    "image, as written by the method that generated them"
                )
            return MaskFiles(root / "JPEGImages", given, names, self.num_classes, truth)
        folder = truth[0] if truth[0].is_dir() and self.train_list is not None else truth[1]
        return MaskFiles(root / "JPEGImages", folder, names, self.num_classes)

    def validation(self) -> MaskFiles:
        return self.test()

    def test(self) -> MaskFiles:
        root = self._root()
        names = listed_names(split_file(root, "val"))
        return MaskFiles(root / "JPEGImages", root / "SegmentationClass", names, self.num_classes)


def split_file(root: Path, split: str) -> Path:
    """Return the file that lists the images of a split."""
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def listed_names(path: Path) -> list[str]:
    """Read image names from a list. A name is the first word of a line, without folder and suffix."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a text file with one image name per line")
    names = [Path(words[0]).stem for line in read_text(path).splitlines() if (words := line.split())]
    if not names:
        raise ValueError(f"{path} lists no image; expected one name per line")
    return names
