"""The centres of a user's photographs, all of one size, as diffusion models of images know them."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.arguments import at_least
from datamodules.files.file_pairs import stem_of
from datamodules.files.text_files import read_text
from datamodules.restoration.image_folders import image_files, read_images
from datamodules.restoration.images import Images, PairSet, Split


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Reduce an image `[C, H, W]` until its short side is `size`, and cut out its centre.

    It is halved by means of blocks while the short side is at least twice the size, then reduced bicubically, as the
    data of guided diffusion (Dhariwal and Nichol 2021) are.
    """
    image = Image.fromarray(np.squeeze(pixels.transpose(1, 2, 0), 2) if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    cut = np.atleast_3d(np.asarray(image))[top : top + size, left : left + size]
    return np.ascontiguousarray(cut.transpose(2, 0, 1))


class CentreCrops(PairSet):
    """Clean images of a folder and its subfolders, reduced to squares of their centres.

    Args:
        clean_dir: the folder.
        image_size: height and width of an image, in pixels.
        listing: text file whose lines begin with the name of an image in the folder; only these are read, in its order.
        colour: whether images are read in colour; otherwise in grey, as luma of Rec. 601.

    Raises:
        FileNotFoundError: if the folder or the listing does not exist, or the folder holds no image.
        ValueError: if a file is damaged or not there.
    """

    def __init__(self, clean_dir: str, image_size: int = 256, listing: str | None = None, colour: bool = True) -> None:
        at_least(1, image_size=image_size)
        self.clean_dir = clean_dir
        self.image_size = image_size
        self.listing = listing
        self.channels = 3 if colour else 1

    def images(self, split: Split) -> Images:
        folder = Path(self.clean_dir).expanduser()
        names = image_files(folder, "clean_dir")
        if self.listing is not None:
            if not (path := Path(self.listing).expanduser()).is_file():
                raise FileNotFoundError(f"listing {path} does not exist; expected a text file with a name in each line")
            names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
        crops = [centre_crop(read_images(folder, [name], self.channels)[0], self.image_size) for name in names]
        return Images([stem_of(name) for name in names], crops)
