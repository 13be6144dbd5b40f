"""A folder of images with captions, in the layout of `imagefolder` (Hugging Face) and diffusers."""

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
    """The user's images, in a folder or its subfolders, with optional captions.

    Captions are read from one of these sources: `metadata.jsonl` with one line `{"file_name": "one.png", "text": "a
    cat"}` per image; `metadata.csv` or `metadata.parquet` with the columns `file_name` and `text`; or a text file next
    to each image (`one.txt` for `one.png`). If none of these files exists, the images have no captions; an
    unconditional model needs no captions. Images are rotated according to their orientation tag. The headers of all
    images are read before training, so that files that are not images are reported early.

    Args:
        data_dir: folder of the images. None means the NOISEWORKS_DATA directory.
        image_size: height and width of the network's input images, in pixels. If buckets are used, it is the square
            root of the area of the largest bucket.
        resize: length of the short side before the square crop, in pixels. None means `image_size`.
        caption_column: key or column of the captions in `metadata.jsonl`, `metadata.csv` or `metadata.parquet`.
        prompt: one caption for all images, such as `a photo of sks`. `{}` is replaced by the name of the image's file,
            without its suffix and with spaces for underscores. If it is set, captions in the folder are ignored.
        buckets: aspect-ratio buckets. None crops all images to squares.
        mask_dir: folder of masks, in any image format. Each mask has the name and aspect ratio of its image. The loss
            has its full weight where a mask is white. None means no masks.
        condition_dir: folder of condition images of a ControlNet, of source images that a model edits, or of rejected
            images (`loss.dpo_beta`). Each has the name and aspect ratio of its image. None means no such images.
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

    @property
    def location(self) -> str:
        return os.path.realpath(data_directory(self.data_dir, "CaptionedFolder"))

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def _images(self) -> tuple[Path, list[str]]:
        root = Path(os.path.normpath(data_directory(self.data_dir, "CaptionedFolder")))
        required_folder(root, "data_dir")
        names = image_names(root)
        for folder in (self.mask_dir, self.condition_dir):
            if folder is not None:  # it may be a subfolder of the image folder
                inside = os.path.relpath(Path(folder).expanduser(), root)
                names = [name for name in names if not name.startswith(f"{inside}/")]
        return root, names

    def training(self) -> Captioned:
        root, names = self._images()
        captions = read_captions(root, names, self.caption_column, self.prompt)
        crop = Crop(self.image_size, self.image_size)
        source = ImageFiles(root, names, torch.zeros(len(names), dtype=torch.int64), crop)
        masks = _of_same_names(self.mask_dir, source, "mask_dir", "mask")
        conditions = _of_same_names(self.condition_dir, source, "condition_dir", "condition")
        cropped = CroppedImages(source, self.image_size, self.resize, self.buckets, masks, conditions)
        return Captioned(cropped, captions)


def read_captions(root: Path, names: list[str], caption_column: str, prompt: str | None) -> list[str] | None:
    """Read the caption of each file or frame folder, as `CaptionedFolder` says, or return None if there are none."""
    if prompt is not None:
        return [prompt.replace("{}", Path(name).stem.replace("_", " ")) for name in names]
    captions = _captions(root, names, caption_column)
    return None if captions is None else [captions[name] for name in names]


def _captions(root: Path, names: list[str], caption_column: str) -> dict[str, str] | None:
    """Read the captions into a dict by file name, or return None if the folder has no captions."""
    files = [
        file for name in ("metadata.jsonl", "metadata.csv", "metadata.parquet") for file in sorted(root.rglob(name))
    ]
    found: dict[str, str] = {}
    for file in files:
        for place, entry in entries(file):
            name, text = entry.get("file_name"), entry.get(caption_column)
            if not isinstance(name, str) or not isinstance(text, str):
                raise ValueError(
                    f"{place}: expected file_name and {caption_column}, got {', '.join(entry) or 'nothing'}"
                )
            path = Path(os.path.normpath(file.parent / name))
            if not path.is_relative_to(root):
                raise ValueError(f"{place} names {name}, which is outside {root}")
            if not path.exists():
                raise FileNotFoundError(f"{place} names {path}, which does not exist")
            found[path.relative_to(root).as_posix()] = text
    if not files:
        texts = {name: _text_beside(root / name) for name in names}
        found = {name: read_text(text).strip() for name, text in texts.items() if text.is_file()}
        _check_texts(root, set(texts.values()))
    missing = [name for name in names if name not in found]
    if not found:
        return None
    if missing:
        where = files[0] if files else _text_beside(root / missing[0])
        raise ValueError(
            f"{root / missing[0]} has no caption ({len(missing)} of {len(names)} files); expected it in {where}"
        )
    return found


def _text_beside(path: Path) -> Path:
    """Return the text file with the caption of an image, a video or a folder of frames, whose name may have a dot."""
    return path.parent / f"{path.name}.txt" if path.is_dir() else path.with_suffix(".txt")


def _check_texts(root: Path, beside: set[Path]) -> None:
    """If captions are stored in text files, reject text files without an image."""
    found = root.rglob("*.txt")
    every = {path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)}
    alone = sorted(every - beside)
    if alone and every & beside:
        raise ValueError(
            f"{alone[0]} is a caption without an image ({len(alone)} of {len(every)} text files); add the image, or "
            f"remove the text"
        )


def _of_same_names(directory: str | None, source: ImageFiles, key: str, noun: str) -> ImageFiles | None:
    """For each image, find the mask or condition image with the same name and any suffix.

    If `directory` is None, return None.
    """
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
            f"({len(missing)} of {len(stems)} {noun}s are missing)"
        )
    return ImageFiles(folder, [of_stem[stem] for stem in stems], source.label, source.crop)
