"""Web-bird, web-car and web-aircraft: datasets of fine-grained classes, whose training images come from web search.

Source: Sun, Yao, Wei, Zhang, Shen, Wu, Zhang and Tang, Webly Supervised Fine-Grained Recognition: Benchmark Datasets
and An Approach, ICCV 2021, arXiv 2108.02399.
"""

from typing import Literal

from datamodules.arguments import one_of
from datamodules.classification.image_sets import ImageFiles, ImageSet, listed_files
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, Interpolation

Subject = Literal["bird", "car", "aircraft"]
NUM_CLASSES: dict[Subject, int] = {"bird": 200, "car": 196, "aircraft": 100}


class WebFG(ImageSet):
    """One of the datasets web-bird, web-car and web-aircraft.

    Training images are listed in `train-list.txt`, and test images in `val-list.txt`. Each line of a list is
    `file:label`. The validation images are the same as the test images. Selecting the epoch by validation accuracy
    therefore means selecting it on the test set. Images are resized and then cropped: training images at a random
    position, all other images at the centre.

    Args:
        data_dir: folder that contains the lists, directly or in a subfolder such as `web-bird`. None means the
            NOISEWORKS_DATA directory.
        subject: bird (200 classes), car (196) or aircraft (100).
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side after resizing, before the crop, in pixels. None means `image_size * 256 /
            224`.
        interpolation: interpolation for resizing, with antialiasing: bilinear or bicubic.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        subject: Subject = "bird",
        image_size: int = 448,
        resize: int | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        one_of(NUM_CLASSES, subject=subject)
        self.data_dir = data_dir
        self.subject = subject
        self.num_classes = NUM_CLASSES[subject]
        self.crop = Crop(image_size, resize, interpolation)
        self.image_shape = (3, image_size, image_size)

    def training(self) -> ImageFiles:
        return self._read("train-list.txt")

    def validation(self) -> ImageFiles:
        return self._read("val-list.txt")

    def test(self) -> ImageFiles:
        return self._read("val-list.txt")

    def _read(self, name: str) -> ImageFiles:
        root = data_directory(self.data_dir, f"web-{self.subject}")
        folders = (root, root / f"web-{self.subject}")
        folder = next((each for each in folders if (each / name).is_file()), None)
        if folder is None:
            raise FileNotFoundError(
                f"web-{self.subject}: {folders[1] / name} does not exist; download the set from "
                f"https://github.com/NUST-Machine-Intelligence-Laboratory/weblyFG-dataset and write lists with lines "
                f"file:label"
            )
        return listed_files(folder / name, folder, self.crop, f"web-{self.subject}", self.num_classes, separator=":")
