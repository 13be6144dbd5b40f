"""Match files of noisy and clean images by name."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path


def match_pairs(
    noisy: Sequence[str],
    clean: Sequence[str],
    folder: Path,
    stem: Callable[[str], str] = lambda name: name,
    kinds: tuple[str, str] = ("noisy", "clean"),
    what: str = "image",
) -> list[tuple[str, str]]:
    """Match noisy and clean files by name.

    Args:
        noisy: file names of the noisy images.
        clean: file names of the clean images.
        folder: folder of the files, for error messages.
        stem: function that maps a file name to a key. A noisy file and its clean file must have the same key.
        kinds: adjectives for the files of `noisy` and of `clean`, for error messages.
        what: noun for the content of a file, such as "image", for error messages.
    """

    def by_stem(names: Sequence[str]) -> dict[str, str]:
        return {stem(os.path.splitext(name)[0]): name for name in names}

    noisy_of, clean_of = by_stem(noisy), by_stem(clean)
    if alone := sorted(noisy_of.keys() ^ clean_of.keys()):
        kind, other = kinds if alone[0] in noisy_of else kinds[::-1]
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(
            f"{folder}: {alone[0]} has {article} {kind} {what} but no {other} counterpart; their names must agree"
        )
    return [(noisy_of[name], clean_of[name]) for name in sorted(noisy_of)]


def stem_of(name: str) -> str:
    return os.path.splitext(name)[0]
