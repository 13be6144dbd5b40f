"""Ratings that users give items: MovieLens files, and synthetic ratings of low rank."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from datamodules.arguments import at_least, within
from datamodules.files.data_directory import data_directory
from datamodules.files.limits import to_int64
from datamodules.files.number_tables import checked_numbers, read_table
from datamodules.tables.table_set import Rows, TableSet

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "u.data": {"sep": "\t", "header": None, "usecols": [0, 1, 2]},
    "ratings.dat": {"sep": ":", "header": None, "usecols": [0, 2, 4]},  # separated by "::"
    "ratings.csv": {"usecols": [0, 1, 2]},
}
"""Arguments for reading the files of MovieLens, in this order: version 100k; 1M and 10M; 20M and later versions."""


MOST_NUMBER = 2**53
"""Largest user or item number. Larger integers are not exact in float64."""


class RatingSet(TableSet):
    """Base class of tables with one row per user. In the columns `ratings` and `held_out`, 0 means an unrated item.

    For each user, `num_held_out` random ratings are held out for testing, and the same number for validation. All other
    ratings are for training. In all three splits, the column `ratings` contains the training ratings. In validation and
    testing, `held_out` contains the held-out ratings of the split. In testing, `excluded` contains the validation
    ratings; the items of these ratings are left out of the ranking.

    Args:
        num_held_out: number of test ratings per user, which is also the number of validation ratings per user.
        min_ratings: minimum number of ratings per user, at least 2 `num_held_out` + 1. Users with fewer ratings are
            left out.
        seed: seed of the split. None means the seed of the DataModule.
    """

    def __init__(self, num_held_out: int = 5, min_ratings: int = 20, seed: int | None = None) -> None:
        at_least(1, num_held_out=num_held_out)
        at_least(2 * num_held_out + 1, min_ratings=min_ratings)
        self.num_held_out = num_held_out
        self.min_ratings = min_ratings
        self.seed = seed

    @abstractmethod
    def read_ratings(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return the user, the item and the positive value of each rating.

        Users and items are identified by arbitrary integers.
        """

    @property
    def row_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"ratings": (self._parts[0].shape[1],)}

    def training(self) -> Rows:
        return Rows({}, sparse={"ratings": self._parts[0]})

    def validation(self) -> Rows:
        training, validation, _ = self._parts
        return Rows({}, sparse={"ratings": training, "held_out": validation, "excluded": csr_array(validation.shape)})

    def test(self) -> Rows:
        training, validation, test = self._parts
        return Rows({}, sparse={"ratings": training, "held_out": test, "excluded": validation})

    @cached_property
    def _parts(self) -> list[csr_array]:
        """Return the training, validation and test ratings, each `[users, items]`."""
        user, item, rating = self.read_ratings()
        user = np.unique(user, return_inverse=True)[1]  # because user numbers are arbitrary
        kept = np.bincount(user)[user] >= self.min_ratings
        if not kept.any():
            raise ValueError(f"{type(self).__name__}: no user has at least min_ratings = {self.min_ratings} ratings")
        user, item, rating = user[kept], item[kept], rating[kept]
        user, item = (np.unique(each, return_inverse=True)[1] for each in (user, item))
        shape = int(user.max()) + 1, int(item.max()) + 1
        random = np.random.default_rng([self.seed or 0, 7])
        order = np.lexsort((random.random(len(user)), user))
        starts = np.concatenate([[0], np.cumsum(np.bincount(user))[:-1]])
        place = np.arange(len(user)) - starts[user[order]]
        part = np.minimum(place // self.num_held_out, 2)  # 0 is test, 1 validation, 2 training
        chosen = [order[part == number] for number in (2, 1, 0)]
        return [csr_array((rating[rows], (user[rows], item[rows])), shape, np.float32) for rows in chosen]


class MovieLens(RatingSet):
    """MovieLens ratings of half a star to five stars, read from `u.data`, `ratings.dat` or `ratings.csv`.

    Args:
        folder: subfolder of the data directory that contains one of these files, such as `ml-1m`.
        num_held_out: number of test ratings per user, which is also the number of validation ratings per user.
        min_ratings: minimum number of ratings per user. Users with fewer ratings are left out.
        data_dir: folder that contains `folder`; None means the NOISEWORKS_DATA directory.
        seed: seed of the split. None means the seed of the DataModule.
    """

    def __init__(
        self,
        folder: str,
        num_held_out: int = 5,
        min_ratings: int = 20,
        data_dir: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_held_out, min_ratings, seed)
        self.folder = folder
        self.data_dir = data_dir

    def read_ratings(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        folder = Path(data_directory(self.data_dir, "MovieLens"), self.folder)
        found = [name for name in LAYOUTS if (folder / name).is_file()]
        if not found:
            raise FileNotFoundError(
                f"MovieLens: {folder} has none of {', '.join(LAYOUTS)}: download ml-1m.zip or another set from "
                f"https://grouplens.org/datasets/movielens and unpack it there"
            )
        path = folder / found[0]
        table = read_table(path, "MovieLens", **LAYOUTS[found[0]])
        table.columns = pd.Index(["user", "item", "rating"])
        checked_numbers(table, "MovieLens", path)
        if not (table["rating"] > 0).all():
            raise ValueError(f"MovieLens: {path} has a rating of {table['rating'].min():g}; ratings must be positive")
        user, item = (to_int64(table[name], 0, MOST_NUMBER, path, name) for name in ("user", "item"))
        return user, item, table["rating"].to_numpy(np.float32)


class SyntheticRatings(RatingSet):
    """Synthetic ratings of one to five stars, from latent factors. Users are more likely to rate items they like.

    The affinity of a user for an item is the inner product of two normal vectors, one of the user and one of the item.
    Each user rates the `num_rated` items for which the sum of affinity and Gumbel noise is largest. The number of
    stars, 1 to 5, is the quintile of the item's affinity among all affinities of the user, after noise with a standard
    deviation of half a star has been added.

    Args:
        num_users: number of users.
        num_items: number of items.
        num_rated: number of ratings per user.
        rank: dimension of the latent factors.
        num_held_out: number of test ratings per user, which is also the number of validation ratings per user.
        seed: seed of the factors, the ratings and the split. None means the seed of the DataModule.
    """

    def __init__(
        self,
        num_users: int = 400,
        num_items: int = 200,
        num_rated: int = 30,
        rank: int = 4,
        num_held_out: int = 5,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_held_out, num_rated, seed)
        at_least(1, num_users=num_users, rank=rank)
        within(1, num_items, num_rated=num_rated)
        self.num_users = num_users
        self.num_items = num_items
        self.num_rated = num_rated
        self.rank = rank

    def read_ratings(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        random = np.random.default_rng([self.seed or 0, 8])
        users, items = (random.standard_normal((count, self.rank)) for count in (self.num_users, self.num_items))
        affinity = users @ items.T / np.sqrt(self.rank)
        noisy = affinity + random.gumbel(size=affinity.shape)
        item = np.argsort(-noisy, axis=1)[:, : self.num_rated]
        fifths = np.argsort(np.argsort(affinity, axis=1), axis=1) * 5 / self.num_items
        stars = np.take_along_axis(fifths, item, axis=1) + 0.5 * random.standard_normal(item.shape)
        user = np.repeat(np.arange(self.num_users), self.num_rated)
        return user, item.ravel(), np.clip(np.ceil(stars), 1, 5).ravel().astype(np.float32)
