"""Images of a class that the model itself generates before it is fine-tuned, for prior preservation (DreamBooth)."""

from pathlib import Path

import torch

from datamodules.arguments import at_least
from datamodules.classification.image_sets import ImageFiles
from datamodules.files.image_files import Crop
from datamodules.prompts.captioned_set import Captioned, CaptionedSet


class ClassImages(CaptionedSet):
    """Images generated for one prompt, `000000.png`, `000001.png`, ... in a folder.

    Missing images are generated when training starts, by the model before fine-tuning; see
    `lightning_modules.diffusion.finetuning.class_images`. Images that exist are kept, so several runs can share them.

    Args:
        folder: folder of the images, visible to all ranks.
        prompt: prompt of all images, which names the subject's class without the subject, such as `a photo of a dog`.
        count: number of images.
        image_size: height and width of the images, in pixels.

    Raises:
        ValueError: if `count` or `image_size` is below 1.
    """

    def __init__(self, folder: str, prompt: str, count: int = 200, image_size: int = 512) -> None:
        at_least(1, count=count, image_size=image_size)
        self.folder = Path(folder).expanduser()
        self.prompt = prompt
        self.count = count
        self.image_shape = (3, image_size, image_size)

    @property
    def keys(self) -> list[str]:
        """Names of the images without suffix."""
        return [f"{number:06d}" for number in range(self.count)]

    def missing(self) -> int:
        """Count the images that are not generated yet."""
        return sum(not (self.folder / f"{key}.png").is_file() for key in self.keys)

    def training(self) -> Captioned:
        names, size = [f"{key}.png" for key in self.keys], self.image_shape[1]
        source = ImageFiles(self.folder, names, torch.zeros(self.count, dtype=torch.int64), Crop(size, size))
        return Captioned(source, [self.prompt] * self.count)
