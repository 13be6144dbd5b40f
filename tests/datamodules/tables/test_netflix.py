"""Netflix ratings from both file layouts, their split, and their memory use."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from datamodules.tables import netflix
from datamodules.tables.netflix import Netflix
from datamodules.tables.ratings import RatingSet
from datamodules.tables.tables import Tables
from tests.two_processes import in_two_processes

Entries = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def entries(users: int, films: int, of_each: int) -> Entries:
    """Draw users with arbitrary ids; each has rated some films, and one user in ten has rated one film less."""
    random = np.random.default_rng(0)
    film = np.argsort(random.random((users, films)), axis=1)[:, :of_each] + 1
    user = np.repeat(random.permutation(5 * users)[:users] + 1, of_each)
    stars = random.integers(1, 6, users * of_each)
    kept = np.arange(users * of_each) % (10 * of_each) > 0
    return user[kept], film.ravel()[kept], stars[kept]


def written(folder: Path, layout: str, rows: Entries) -> Path:
    """Write the files of a layout, sorted by film."""
    user, film, stars = rows
    texts = []
    for number in np.unique(film):
        own = film == number
        lines = [f"{one},{star},2005-09-06\n" for one, star in zip(user[own], stars[own], strict=True)]
        texts.append(f"{number}:\n{''.join(lines)}")
    (folder / "netflix" / "training_set").mkdir(parents=True)
    if layout == "training_set":
        for number, text in enumerate(texts):
            (folder / "netflix" / "training_set" / f"mv_{number:07d}.txt").write_text(text)
    else:
        half = len(texts) // 2
        for number, part in enumerate((texts[:half], texts[half:])):
            (folder / "netflix" / f"combined_data_{number}.txt").write_text("".join(part))
    return folder


def ratings(folder: Path, of_each: int) -> Netflix:
    return Netflix(num_held_out=2, min_ratings=of_each, data_dir=str(folder), cache_dir=str(folder / "cache"), seed=3)


class InMemory(RatingSet):
    """The same ratings in memory, sorted by user and then by film."""

    def __init__(self, rows: Entries, of_each: int) -> None:
        super().__init__(2, of_each, seed=3)
        order = np.lexsort((rows[1], rows[0]))
        self.rows = tuple(column[order] for column in rows)

    def read_ratings(self) -> Any:
        user, film, stars = self.rows
        return user, film, stars.astype(np.float32)


@pytest.mark.parametrize("layout", ["training_set", "combined_data"])
def test_both_layouts_give_the_split_of_ratings_in_memory(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netflix, "LINES_AT_ONCE", 17)  # a block ends in the middle of a film and of a user
    rows = entries(30, 12, 7)
    ours, expected = ratings(written(tmp_path, layout, rows), 7), InMemory(rows, 7)
    for split in ("training", "validation", "test"):
        mine, theirs = getattr(ours, split)(), getattr(expected, split)()
        assert len(mine) == 27  # 3 of 30 users have rated 6 films
        for key, array in theirs.sparse.items():
            np.testing.assert_array_equal(mine.sparse[key].toarray(), array.toarray(), err_msg=key)
        chosen, wanted = (each.chosen(torch.tensor([5, 0, 26])) for each in (mine, theirs))
        assert all(torch.equal(chosen[key], wanted[key]) for key in wanted)
    assert Tables(ours).row_shapes == {"ratings": (12,)}
    again = ratings(tmp_path, 7)
    monkeypatch.setattr(netflix, "write_by_user", None)  # the ratings by user are cached
    np.testing.assert_array_equal(again.test().sparse["held_out"].toarray(), ours.test().sparse["held_out"].toarray())


def rows_of_a_process(folder: Path) -> dict[str, NDArray[Any]]:
    """Read each split in one of two processes, which both start without a cache."""
    dist.init_process_group("gloo")
    ours = ratings(folder, 7)
    splits = {"training": ours.training(), "validation": ours.validation(), "test": ours.test()}
    return {f"{name}/{key}": value.toarray() for name, split in splits.items() for key, value in split.sparse.items()}


@pytest.mark.nightly
def test_two_processes_without_a_cache_read_the_ratings_of_one(tmp_path: Path) -> None:
    rows = entries(40, 12, 7)
    read = in_two_processes(rows_of_a_process, written(tmp_path / "two", "combined_data", rows))
    alone = ratings(written(tmp_path / "one", "combined_data", rows), 7)
    for each in read:
        np.testing.assert_array_equal(each["test/held_out"], alone.test().sparse["held_out"].toarray())
        assert each.keys() == read[0].keys()
        assert all(np.array_equal(each[key], read[0][key]) for key in each)


def peak(table: RatingSet) -> int:
    """Measure the peak memory of NumPy and Python while ratings are sorted, split, and read for a batch."""
    tracemalloc.start()
    for split in (table.training(), table.validation(), table.test()):
        split.chosen(torch.arange(0, 180, 20))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_does_not_depend_on_the_number_of_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netflix, "LINES_AT_ONCE", 500)
    ours, in_memory = [], []
    for number, of_each in enumerate((10, 10, 100)):  # the first call includes late imports
        rows = entries(200, 120, of_each)
        ours.append(peak(ratings(written(tmp_path / str(number), "combined_data", rows), of_each)))
        in_memory.append(peak(InMemory(rows, of_each)))
    assert ours[2] < 1.2 * ours[1]  # 18,000 and 1,800 ratings
    assert in_memory[2] > 4 * in_memory[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5,2005-09-06\n", "has ratings before its first line `film:`"),
        ("1:\n7,5,2005-09-06\n7\n", "line 3 of .*combined_data_1.txt is neither `film:` nor `user,stars,date`"),
        ("1:\n7,6,2005-09-06\n", r"has the rating 6.0 at position 0; it must be a whole number in 1 ... 5"),
    ],
)
def test_other_files_are_rejected(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "netflix").mkdir()
    (tmp_path / "netflix" / "combined_data_1.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        ratings(tmp_path, 5).training()
    assert not [*(tmp_path / "cache").glob("*/manifest.json")]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no training_set/mv_\*.txt or combined_data_\*.txt"):
        ratings(tmp_path, 5).fetch_missing()
