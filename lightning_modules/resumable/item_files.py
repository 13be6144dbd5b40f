"""One file for each item of a long piece of work; a file that is there is left alone, so a killed run continues."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.files.whole_files import DamagedFile


def digest_of(*tensors: Tensor) -> str:
    """Hash what a file is made from: tensors by their shapes and values, wherever they are."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def missing_items(
    paths: Sequence[Path],
    digests: Sequence[str] | None = None,
    digest_in: Callable[[Path], str | None] | None = None,
) -> list[int]:
    """List the positions of items that have no file yet, or a damaged one.

    Args:
        paths: a file for each item, written whole or not at all.
        digests: for each item a digest of what its file is made from.
        digest_in: reads the digest that a file was written with, and raises `DamagedFile`; needed with `digests`.

    Raises:
        ValueError: if a file was made from something else than its item is made from now.
    """
    missing = []
    for position, path in enumerate(paths):
        if not path.is_file():
            missing.append(position)
        elif digests is not None:
            assert digest_in is not None
            try:
                found = digest_in(path)
            except DamagedFile as error:
                rank_zero_warn(f"{error}: it is written again")
                missing.append(position)
                continue
            if found != digests[position]:
                raise ValueError(
                    f"{path} was not made from what the data have under that name now: remove it, or write into "
                    f"another run directory"
                )
    return missing
