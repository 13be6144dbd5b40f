"""A folder of images with captions, in the layout of Hugging Face's imagefolder and of diffusers."""

from pathlib import Path

import torch

from datamodules.classification.image_sets import ImageFiles
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, image_names, required_folder
from datamodules.files.text_files import read_text
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.text_tables import entries


class CaptionedFolder(CaptionedSet):
    """Images of the user in any subfolders, with captions if there are any.

    Captions are read from `metadata.jsonl` with a line `{"file_name": "one.png", "text": "a cat"}` per image, or from
    `metadata.csv` with these columns. They can also be in a text file beside each image, such as `one.txt` for
    `one.png`. Without these files, images have no captions. An unconditional model needs none.

    Args:
        data_dir: folder of the images. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the input images of the network, in pixels.
        resize: length of the short side before the square crop, in pixels. None means `image_size`.
        caption_column: key or column of the captions in `metadata.jsonl` or `metadata.csv`.
        prompt: caption of all images, such as `a photo of sks`. If it is given, captions in the folder are ignored.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        image_size: int = 512,
        resize: int | None = None,
        caption_column: str = "text",
        prompt: str | None = None,
    ) -> None:
        self.crop = Crop(image_size, resize or image_size)
        self.image_shape = (3, image_size, image_size)
        self.data_dir = data_dir
        self.caption_column = caption_column
        self.prompt = prompt

    def has_captions(self) -> bool:
        if self.prompt is not None:
            return True
        root, names = self._images()
        return self._captions(root, names) is not None

    def _images(self) -> tuple[Path, list[str]]:
        root = data_directory(self.data_dir, "CaptionedFolder")
        required_folder(root, "data_dir")
        return root, image_names(root)

    def training(self) -> Captioned:
        root, names = self._images()
        source = ImageFiles(root, names, torch.zeros(len(names), dtype=torch.int64), self.crop)
        if self.prompt is not None:
            return Captioned(source, [self.prompt] * len(names))
        captions = self._captions(root, names)
        return Captioned(source, None if captions is None else [captions[name] for name in names])

    def _captions(self, root: Path, names: list[str]) -> dict[str, str] | None:
        """Read the captions by file name, or return None if the folder has no captions."""
        files = [file for name in ("metadata.jsonl", "metadata.csv") for file in sorted(root.rglob(name))]
        found: dict[str, str] = {}
        for file in files:
            for place, entry in entries(file):
                name, text = entry.get("file_name"), entry.get(self.caption_column)
                if not isinstance(name, str) or not isinstance(text, str):
                    raise ValueError(
                        f"{place}: expected file_name and {self.caption_column}, got {', '.join(entry) or 'nothing'}"
                    )
                path = file.parent / name
                if not path.is_file():
                    raise FileNotFoundError(f"{place} names {path}, which does not exist")
                found[path.relative_to(root).as_posix()] = text
        if not files:
            texts = {name: (root / name).with_suffix(".txt") for name in names}
            found = {name: read_text(text).strip() for name, text in texts.items() if text.is_file()}
        missing = [name for name in names if name not in found]
        if not found:
            return None
        if missing:
            where = files[0] if files else (root / missing[0]).with_suffix(".txt")
            raise ValueError(
                f"{root / missing[0]} has no caption ({len(missing)} of {len(names)} images); expected it in {where}"
            )
        return found
