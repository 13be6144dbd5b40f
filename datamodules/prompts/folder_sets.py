"""A folder of images with captions, in the layout of Hugging Face's imagefolder and of diffusers."""

import os
from pathlib import Path

import torch

from datamodules.classification.image_sets import ImageFiles
from datamodules.files.data_directory import data_directory
from datamodules.files.image_files import Crop, image_names, required_folder
from datamodules.files.text_files import read_text
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.cropped_images import CroppedImages, check_image_size
from datamodules.prompts.text_tables import entries

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class CaptionedFolder(CaptionedSet):
    """Images of the user in any subfolders, with captions if there are any.

    Captions are read from `metadata.jsonl` with a line `{"file_name": "one.png", "text": "a cat"}` per image, from
    `metadata.csv` or `metadata.parquet` with these columns, or from a text file beside each image, `one.txt` for
    `one.png`. Images without any of these files have no captions, which suffices for an unconditional model. Images are
    turned as their orientation tag says. Before training, the headers of all images are read, so a file that is no
    image is named then.

    Args:
        data_dir: folder of the images; None means the NOISEWORKS_DATA directory.
        image_size: height and width of the network's input images, in pixels; with buckets, the root of their area.
        resize: length of the short side before the square crop, in pixels; None means `image_size`.
        caption_column: key or column of the captions in `metadata.jsonl`, `metadata.csv` or `metadata.parquet`.
        prompt: one caption for all images, such as `a photo of sks`; captions in the folder are ignored.
        buckets: aspect-ratio buckets; None crops all images to squares.
        mask_dir: folder of masks with the images' names and aspect ratios, in any image format: white where the loss
            has its full weight; None means no masks.
        condition_dir: folder of condition images with the images' names and aspect ratios, for a ControlNet; None means
            no conditions.

    Raises:
        FileNotFoundError: on reading, if an image, or one that a table names, or a mask or condition is missing.
        ValueError: if an argument is out of range; on reading, if captions and images do not match.
        UnreadableImage: on reading, if a file is no image.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        image_size: int = 512,
        resize: int | None = None,
        caption_column: str = "text",
        prompt: str | None = None,
        buckets: Buckets | None = None,
        mask_dir: str | None = None,
        condition_dir: str | None = None,
    ) -> None:
        check_image_size(image_size, resize, buckets)
        self.image_size = image_size
        self.image_shape = (3, image_size, image_size)
        self.resize = resize
        self.data_dir = data_dir
        self.caption_column = caption_column
        self.prompt = prompt
        self.buckets = buckets
        self.mask_dir = mask_dir
        self.condition_dir = condition_dir

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def _images(self) -> tuple[Path, list[str]]:
        root = Path(os.path.normpath(data_directory(self.data_dir, "CaptionedFolder")))
        required_folder(root, "data_dir")
        names = image_names(root)
        for folder in (self.mask_dir, self.condition_dir):
            if folder is not None:  # which may be a folder of the images' own
                inside = os.path.relpath(Path(folder).expanduser(), root)
                names = [name for name in names if not name.startswith(f"{inside}/")]
        return root, names

    def training(self) -> Captioned:
        root, names = self._images()
        captions = self._texts(root, names)
        crop = Crop(self.image_size, self.image_size)
        source = ImageFiles(root, names, torch.zeros(len(names), dtype=torch.int64), crop)
        masks = _of_same_names(self.mask_dir, source, "mask_dir", "mask")
        conditions = _of_same_names(self.condition_dir, source, "condition_dir", "condition")
        cropped = CroppedImages(source, self.image_size, self.resize, self.buckets, masks, conditions)
        return Captioned(cropped, captions)

    def _texts(self, root: Path, names: list[str]) -> list[str] | None:
        if self.prompt is not None:
            return [self.prompt] * len(names)
        captions = self._captions(root, names)
        return None if captions is None else [captions[name] for name in names]

    def _captions(self, root: Path, names: list[str]) -> dict[str, str] | None:
        """Read the captions by file name; None if the folder has no captions."""
        files = [
            file for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet") for file in sorted(root.rglob(name))
        ]
        found: dict[str, str] = {}
        for file in files:
            for place, entry in entries(file):
                name, text = entry.get("file_name"), entry.get(self.caption_column)
                if not isinstance(name, str) or not isinstance(text, str):
                    raise ValueError(
                        f"{place}: expected file_name and {self.caption_column}, got {', '.join(entry) or 'nothing'}"
                    )
                path = Path(os.path.normpath(file.parent / name))
                if not path.is_relative_to(root):
                    raise ValueError(f"{place} names {name}, which is outside {root}")
                if not path.is_file():
                    raise FileNotFoundError(f"{place} names {path}, which does not exist")
                found[path.relative_to(root).as_posix()] = text
        if not files:
            texts = {name: (root / name).with_suffix(".txt") for name in names}
            found = {name: read_text(text).strip() for name, text in texts.items() if text.is_file()}
            _check_texts(root, set(texts.values()))
        missing = [name for name in names if name not in found]
        if not found:
            return None
        if missing:
            where = files[0] if files else (root / missing[0]).with_suffix(".txt")
            raise ValueError(
                f"{root / missing[0]} has no caption ({len(missing)} of {len(names)} images); expected it in {where}"
            )
        return found


def _check_texts(root: Path, beside: set[Path]) -> None:
    """Reject text files without an image, if others are captions."""
    found = root.rglob("*.txt")
    every = {path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)}
    alone = sorted(every - beside)
    if alone and every & beside:
        raise ValueError(
            f"{alone[0]} is a caption without an image ({len(alone)} of {len(every)} text files); add the image, or "
            f"remove the text"
        )


def _of_same_names(directory: str | None, source: ImageFiles, key: str, noun: str) -> ImageFiles | None:
    """Find each image's mask or condition, which has its name with any suffix; None without a folder."""
    if directory is None:
        return None
    folder = Path(directory).expanduser()
    required_folder(folder, key)
    of_stem = {os.path.splitext(name)[0]: name for name in image_names(folder)}
    stems = [os.path.splitext(name)[0] for name in source.names]
    missing = [stem for stem in stems if stem not in of_stem]
    if missing:
        raise FileNotFoundError(
            f"{key}: {folder / missing[0]}.png, the {noun} of an image, does not exist "
            f"({len(missing)} of {len(stems)} {noun}s)"
        )
    return ImageFiles(folder, [of_stem[stem] for stem in stems], source.label, source.crop)
