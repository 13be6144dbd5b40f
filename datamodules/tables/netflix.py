"""Ratings of the Netflix Prize. The memory of a run does not depend on the number of ratings.

The text files list the ratings by film. A first pass over the text files counts the ratings of each user. A second pass
writes the ratings to files on disk, sorted by user (a counting sort). In training, the sorted files are memory-mapped,
and only the rows of a batch are read. Only a few numbers per user and per film, and one block of lines, are kept in
memory.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from datamodules.files.data_directory import data_directory
from datamodules.files.limits import sentence, to_int64
from datamodules.files.number_tables import read_table
from datamodules.files.whole_files import owned_path
from datamodules.jobs.settings import key_of
from datamodules.tables.ratings import RatingSet

LAYOUTS = ("training_set/mv_*.txt", "combined_data_*.txt")
"""File name patterns: of the original dataset, and of its copy on Kaggle."""
LINES_AT_ONCE = 1 << 20
MOST_USER, MOST_FILM, MOST_STARS = 1 << 24, 1 << 20, 5
"""Largest allowed numbers in the files. Memory grows with the largest user number and the largest film number."""


class Block(NamedTuple):
    """Ratings that are consecutive in the files."""

    user: NDArray[np.int64]
    film: NDArray[np.int64]
    stars: NDArray[np.int64]


def rating_blocks(files: Sequence[Path]) -> Iterator[Block]:
    """Read ratings from files, one block of lines at a time.

    A line `7:` is followed by the ratings of film 7. Each rating is a line `user,stars,date`.
    """
    for path in files:
        lines, film = 0, None
        options = {"names": ["user", "stars", "date"], "usecols": [0, 1], "dtype": {"user": str}}
        reader = read_table(path, "Netflix", header=None, chunksize=LINES_AT_ONCE, **options)
        while True:
            try:
                table = next(reader, None)
            except Exception as error:  # pandas raises many exception types
                raise ValueError(f"Netflix: {path} is not a readable table ({sentence(error)})") from error
            if table is None:
                break
            heads = np.flatnonzero(table["stars"].isna())
            named = table["user"].iloc[heads].fillna("")
            for line, text in zip(heads, named, strict=True):
                if not (text[:-1].isdecimal() and text.endswith(":")):
                    raise ValueError(
                        f"Netflix: line {lines + line + 1} of {path} is neither `film:` nor `user,stars,date`"
                    )
            numbers = to_int64([int(text[:-1]) for text in named], 1, MOST_FILM, path, "film")
            films = numbers if film is None else np.concatenate([[film], numbers])
            of_line = np.searchsorted(heads, np.arange(len(table)), side="right") - (film is None)
            rated = np.ones(len(table), dtype=bool)
            rated[heads] = False
            if of_line.min() < 0:
                raise ValueError(f"Netflix: {path} has ratings before its first line `film:`")
            user = pd.to_numeric(table["user"][rated], errors="coerce")
            yield Block(
                to_int64(user, 1, MOST_USER, path, "user"),
                films[of_line[rated]],
                to_int64(table["stars"][rated], 1, MOST_STARS, path, "rating"),
            )
            film, lines = films[-1], lines + len(table)


def add_counts(count: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each index occurs in `numbers`, and add the result to the previous counts, `count`."""
    new = np.bincount(numbers, minlength=len(count))
    new[: len(count)] += count
    return new


def write_by_user(files: Sequence[Path], folder: Path, min_ratings: int) -> None:
    """Write the ratings of users with at least `min_ratings` ratings as arrays of a `csr_array`, sorted by user.

    Args:
        files: text files that contain the ratings.
        folder: existing folder, in which `film.npy`, `stars.npy`, `start.npy` and `films.npy` (the number of films) are
            written.
        min_ratings: minimum number of ratings per user. Users with fewer ratings are left out.
    """
    ratings_of, seen = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for block in rating_blocks(files):
        ratings_of, seen = add_counts(ratings_of, block.user), add_counts(seen, block.film)
    kept = ratings_of >= min_ratings
    if not kept.any():
        raise ValueError(f"Netflix: no user has at least min_ratings = {min_ratings} ratings")
    start = np.concatenate([[0], np.cumsum(ratings_of[kept])])
    shape = (int(start[-1]),)
    film = np.lib.format.open_memmap(folder / "film.npy", mode="w+", dtype=np.int32, shape=shape)
    stars = np.lib.format.open_memmap(folder / "stars.npy", mode="w+", dtype=np.float32, shape=shape)
    number_of_user, number_of_film = np.cumsum(kept) - 1, np.cumsum(seen > 0) - 1
    free = start[:-1].copy()
    for block in rating_blocks(files):
        chosen = np.flatnonzero(kept[block.user])
        chosen = chosen[np.argsort(block.user[chosen], kind="stable")]
        user, first, count = np.unique(number_of_user[block.user[chosen]], return_index=True, return_counts=True)
        place = np.arange(len(chosen)) + np.repeat(free[user] - first, count)
        film[place], stars[place] = number_of_film[block.film[chosen]], block.stars[chosen]
        free[user] += count
    film.flush()
    stars.flush()
    np.save(folder / "start.npy", start)
    np.save(folder / "films.npy", np.count_nonzero(seen))


def held_out_places(start: NDArray[Any], count: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Sample `count` ratings of each user for testing and as many for validation, one block of users at a time.

    Args:
        start: position of the first rating of each user, followed by the total number of ratings.
        count: number of ratings to hold out per user and split.
        random: random number generator. The result does not depend on the size of the blocks.

    Yields:
        Positions of the ratings for testing and for validation, `[2, n]`.
    """
    bounds = np.searchsorted(start, np.arange(0, start[-1], LINES_AT_ONCE))
    for low, high in zip(bounds, [*bounds[1:], len(start) - 1], strict=True):
        sizes = np.diff(start[low : high + 1])
        order = np.lexsort((random.random(sizes.sum()), np.repeat(np.arange(high - low), sizes)))
        first = start[low:high] - start[low]
        chosen = order[first[:, None] + np.arange(2 * count)] + start[low]
        yield np.stack([chosen[:, :count].ravel(), chosen[:, count:].ravel()])


class Remaining:
    """A sparse array from which the entries of other sparse arrays are removed whenever rows are read.

    Args:
        whole: sparse array `[N, D]`.
        removed: sparse arrays `[N, D]`, all of whose entries are also entries of `whole`.
    """

    def __init__(self, whole: csr_array, *removed: csr_array) -> None:
        self.whole, self.removed = whole, removed

    @property
    def shape(self) -> tuple[int, int]:
        return self.whole.shape

    def __getitem__(self, rows: Any) -> csr_array:
        found = self.whole[rows]
        for array in self.removed:
            found = found - array[rows]
        return found

    def toarray(self) -> NDArray[Any]:
        return self[np.arange(self.shape[0])].toarray()


class Netflix(RatingSet):
    """Netflix Prize ratings: 100 million ratings of 17,770 films by 480,189 users, from one to five stars.

    The ratings are read from `training_set/mv_*.txt` or `combined_data_*.txt`. They are sorted by user and written once
    to `cache_dir` (0.8 GB). All films in the files are kept. The memory of a run does not depend on the number of
    ratings.

    Args:
        folder: folder in the data directory that contains the text files.
        num_held_out: number of test ratings per user. The number of validation ratings per user is the same.
        min_ratings: minimum number of ratings per user. Users with fewer ratings are left out.
        data_dir: folder that contains `folder`; None means the NOISEWORKS_DATA directory.
        cache_dir: folder for the ratings sorted by user, visible to all ranks.
        seed: seed of the split. None means the seed of the DataModule.
    """

    def __init__(
        self,
        folder: str = "netflix",
        num_held_out: int = 5,
        min_ratings: int = 20,
        data_dir: str | None = None,
        cache_dir: str = "runs/ratings",
        seed: int | None = None,
    ) -> None:
        super().__init__(num_held_out, min_ratings, seed)
        self.folder = folder
        self.data_dir = data_dir
        self.cache_dir = cache_dir

    def read_ratings(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        whole = self._whole
        user = np.repeat(np.arange(whole.shape[0]), np.diff(whole.indptr))
        return user, whole.indices.astype(np.int64), whole.data

    def fetch_missing(self) -> None:
        """Write the ratings, sorted by user, to `cache_dir`, unless they are already there."""
        self._entry()

    def _entry(self) -> Path:
        folder = Path(data_directory(self.data_dir, "Netflix"), self.folder)
        files = next((found for layout in LAYOUTS if (found := sorted(folder.glob(layout)))), [])
        if not files:
            raise FileNotFoundError(
                f"Netflix: {folder} has no {' or '.join(LAYOUTS)}: unpack the files of the Netflix Prize there"
            )
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        identity = {"files": states, "min_ratings": self.min_ratings}
        entry = Path(self.cache_dir, f"netflix-{key_of(identity)}")
        with owned_path(entry, patience=math.inf):
            if not entry.is_dir():
                partial = entry.with_name(f"{entry.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                write_by_user(files, partial, self.min_ratings)
                (partial / "manifest.json").write_text(json.dumps(identity), encoding="utf-8")
                os.replace(partial, entry)
        return entry

    @cached_property
    def _whole(self) -> csr_array:
        entry = self._entry()
        try:
            film, stars = (np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("film", "stars"))
            start, films = (np.load(entry / f"{name}.npy") for name in ("start", "films"))
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{entry} is damaged ({error}): remove this folder to write it again") from error
        parts = (np.asarray(stars), np.asarray(film), start.astype(np.int32))
        return csr_array(parts, (len(start) - 1, int(films)), copy=False)

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"ratings": (self._whole.shape[1],)}

    @cached_property
    def _parts(self) -> list[Any]:
        whole, held_out = self._whole, []
        random = np.random.default_rng([self.seed or 0, 7])
        places = np.concatenate([*held_out_places(whole.indptr, self.num_held_out, random)], axis=1)
        user = np.repeat(np.arange(whole.shape[0]), self.num_held_out)
        for chosen in places:
            entries = whole.data[chosen], (user, whole.indices[chosen])
            held_out.append(csr_array(entries, whole.shape, np.float32))
        test, validation = held_out
        return [Remaining(whole, test, validation), validation, test]
