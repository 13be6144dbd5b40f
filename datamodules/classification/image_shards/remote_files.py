"""Files on a server or in a bucket, which are read in parts by `fsspec` and never stored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from datamodules.files.limits import sentence


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Name the URL in errors, whose types differ between the packages that `fsspec` calls."""
    try:
        yield
    except Exception as error:
        raise OSError(f"{url} cannot be read: {sentence(error)}") from error


@dataclass(frozen=True)
class RemoteFile:
    """A file that `fsspec` reads, with the methods of `pathlib.Path` that readers use.

    Args:
        url: for example `hf://datasets/OWNER/NAME/data/train-0.parquet` or `https://...`.
    """

    url: str

    def _info(self) -> dict[str, Any]:
        with _reading(self.url):
            system, path = _resolve(self.url)
            return system.info(path)

    def exists(self) -> bool:
        with _reading(self.url):
            system, path = _resolve(self.url)
            return system.exists(path)

    def is_file(self) -> bool:
        return self._info()["type"] == "file"

    def stat(self) -> Any:
        """Return an object with the size of the file in bytes, `st_size`."""
        return SimpleNamespace(st_size=self._info()["size"])

    def open(self) -> Any:
        """Open the file for reading. Only the bytes that are read are transferred."""
        with _reading(self.url):
            system, path = _resolve(self.url)
            return system.open(path, "rb", cache_type="none")

    def __str__(self) -> str:
        return self.url


def remote_files(urls: Sequence[str]) -> list[RemoteFile]:
    """List the files that match patterns of URLs, in the order of the patterns and then by name.

    Raises:
        FileNotFoundError: if a pattern matches no file. The message contains the pattern.
        OSError: if no installed package reads such URLs, or if the server cannot be reached.
    """
    found = []
    for url in urls:
        with _reading(url):
            system, path = _resolve(url)
            matched = sorted(system.glob(path)) if "*" in url else [path] if system.exists(path) else []
        if not matched:
            raise FileNotFoundError(f"{url} does not exist, or matches no file")
        found += [RemoteFile(system.unstrip_protocol(each)) for each in matched]
    return found


def _resolve(url: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.url_to_fs(url)
