"""Store of images, in which the pages of a stack become one TIFF file with as many pages."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tifffile import TiffWriter
from torchvision.io import ImageReadMode, decode_image

from datamodules.files.png import DIGEST, digest_in_png, write_png
from datamodules.files.whole_files import whole_file
from datamodules.jobs.stores import Files

LARGEST_TIFF = 2**31
"""Size in bytes above which stacks are written as BigTIFF. Other TIFF files are limited to twice this size."""


class PagedImages(Files):
    """Store of uint8 or uint16 images `[C, H, W]` in PNG files `<key>.png`.

    The pages of a stack have the keys `<stack>/1`, `<stack>/2` etc. `join_pages` moves them to `<stack>.tif`, in which
    each page keeps the digest of its inputs.

    Args:
        folder: folder of the files.
        stacks: number of pages of each stack, by name.
    """

    def __init__(self, folder: Path, stacks: Mapping[str, int]) -> None:
        super().__init__(folder, ".png", write_png, digest_in_png)
        self.stacks = stacks

    def is_empty(self) -> bool:
        return super().is_empty() and not any(self.folder.rglob("[!.]*.tif"))

    def missing(self, keys: Sequence[str], digests: Sequence[str] | None = None) -> list[int]:
        missing = []
        for position in super().missing(keys, digests):
            stack, _, page = keys[position].rpartition("/")
            joined = self._joined.get(stack)
            if joined is None:
                missing.append(position)
            elif digests is not None and joined[int(page) - 1 : int(page)] != [digests[position]]:
                raise self._other_data(stack)
        return missing

    def _other_data(self, stack: str) -> ValueError:
        path = self.folder / f"{stack}.tif"
        return ValueError(f"{path} was written for other input data: remove it, or write into another run directory")

    @cached_property
    def _joined(self) -> dict[str, list[str]]:
        """The digests of the pages of each stack whose TIFF file an earlier run has written."""
        found = {}
        for stack, count in self.stacks.items():
            path = self.folder / f"{stack}.tif"
            if path.is_file():
                found[stack] = _digests(path)
                if len(found[stack]) != count:
                    raise self._other_data(stack)
        return found

    def join_pages(self) -> None:
        """Move the pages of all stacks to their TIFF files. Rank 0 calls this method after all pages are written."""
        for stack, count in self.stacks.items():
            pages = [self.path(f"{stack}/{page + 1}") for page in range(count)]
            if stack not in self._joined:
                with whole_file(self.folder / f"{stack}.tif") as partial:
                    _write_tiff(partial, pages)
            for page in pages:
                page.unlink(missing_ok=True)
            if pages[0].parent.is_dir() and not any(pages[0].parent.iterdir()):
                pages[0].parent.rmdir()


def _write_tiff(path: Path, pages: Sequence[Path]) -> None:
    first = decode_image(str(pages[0]), ImageReadMode.UNCHANGED)
    with TiffWriter(path, bigtiff=first.nbytes * len(pages) > LARGEST_TIFF) as writer:
        for page in pages:
            image = decode_image(str(page), ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
            writer.write(
                image if image.shape[2] == 3 else image[..., 0],
                photometric="rgb" if image.shape[2] == 3 else "minisblack",
                description=f"{DIGEST}={digest_in_png(page)}",
                contiguous=False,
                metadata=None,
            )


def _digests(path: Path) -> list[str]:
    """Read the digests of the pages of a TIFF file. Without digests, the list has an empty text for each page."""
    try:
        with Image.open(path) as image:
            digests = []
            for page in range(getattr(image, "n_frames", 1)):
                image.seek(page)
                digests.append(str(image.tag_v2.get(270, "")).removeprefix(f"{DIGEST}="))  # type: ignore[attr-defined]
            return digests
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and its pages are computed again") from error
