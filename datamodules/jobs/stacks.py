"""Store of images, in which the pages of a stack become one TIFF file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from datamodules.files.limits import sentence
from datamodules.files.png import digest_in_png, write_png
from datamodules.files.tiff_files import Layout, digests_in_tiff, read_page, write_tiff
from datamodules.files.whole_files import DamagedFile
from datamodules.jobs.stores import Files


class PagedImages(Files):
    """Store of images `[C, H, W]`: PNG files of uint8 or uint16, and TIFF files, which may also contain float32.

    The pages of a stack have the keys `<stack>/1`, `<stack>/2` etc., and are first written to a TIFF file each.
    `join_pages` moves them to `<stack>.tif`, which keeps the digest of the input of each page.

    Args:
        folder: folder of the files.
        stacks: arrangement of the pages of each TIFF file, by name.
    """

    def __init__(self, folder: Path, stacks: Mapping[str, Layout]) -> None:
        super().__init__(folder, "", _write, _digest_in)
        self.stacks = stacks
        self._in_tiff = {key for stack in stacks for key in self._keys(stack)}

    def _keys(self, stack: str) -> list[str]:
        count = self.stacks[stack].count
        return [stack] if count == 1 else [f"{stack}/{page + 1}" for page in range(count)]

    def path(self, key: str) -> Path:
        return self.folder / f"{key}{'.tif' if key in self._in_tiff else '.png'}"

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
        for stack, layout in self.stacks.items():
            path = self.folder / f"{stack}.tif"
            if layout.count > 1 and path.is_file():
                try:
                    found[stack] = digests_in_tiff(path)
                except DamagedFile as error:
                    raise ValueError(f"{error}: remove it, and its pages are computed again") from error
                if len(found[stack]) != layout.count:
                    raise self._other_data(stack)
        return found

    def write(self, key: str, value: NDArray, digest: str = "") -> None:
        if key in self.stacks:  # the only page
            _write_stack(self.path(key), lambda: [value], self.stacks[key], [digest])
        else:
            super().write(key, value, digest)

    def join_pages(self) -> None:
        """Move the pages of all stacks to their TIFF files. Rank 0 calls this method after all pages are written."""
        for stack, layout in self.stacks.items():
            if layout.count == 1:
                continue
            pages = [self.path(key) for key in self._keys(stack)]
            if stack not in self._joined:
                digests = [digest for page in pages for digest in digests_in_tiff(page)]
                _write_stack(self.folder / f"{stack}.tif", partial(_each, pages), layout, digests)
            for page in pages:
                page.unlink(missing_ok=True)
            if pages[0].parent.is_dir() and not any(pages[0].parent.iterdir()):
                pages[0].parent.rmdir()


def _write_stack(path: Path, pages: Callable[[], Iterable[NDArray]], layout: Layout, digests: Sequence[str]) -> None:
    """Write pages to a TIFF file. If its format does not accept the metadata of the input, they are left out."""
    try:
        write_tiff(path, pages(), layout, digests)
    except OSError:
        raise
    except Exception as error:  # each format raises errors of its own for metadata that it does not accept
        rank_zero_warn(f"{path} is written without the metadata of its input: {sentence(error)}")
        write_tiff(path, pages(), replace(layout, kind="shaped", metadata={}), digests)


def _each(paths: Sequence[Path]) -> Iterator[NDArray]:
    for path in paths:
        pixels = read_page(path, 0)
        assert pixels is not None
        yield pixels.transpose(2, 0, 1)


def _write(path: Path, pixels: NDArray, digest: str) -> None:
    if path.suffix == ".tif":
        write_tiff(path, [pixels], Layout(), [digest])
    else:
        write_png(path, pixels, digest)


def _digest_in(path: Path) -> str | None:
    if path.suffix == ".png":
        return digest_in_png(path)
    return next(iter(digests_in_tiff(path)), None)
