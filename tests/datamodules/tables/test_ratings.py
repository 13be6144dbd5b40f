from pathlib import Path

import numpy as np
import pytest

from datamodules.tables.ratings import LAYOUTS, MovieLens, SyntheticRatings
from datamodules.tables.tables import Tables

ROWS = [(9, 40, 5.0), (9, 70, 3.0), (9, 41, 4.0), (2, 40, 1.0), (2, 70, 2.0), (2, 99, 3.5), (7, 40, 5.0)]
TEXT = {
    "u.data": "\n".join(f"{user}\t{item}\t{rating:g}\t8812" for user, item, rating in ROWS),
    "ratings.dat": "\n".join(f"{user}::{item}::{rating:g}::8812" for user, item, rating in ROWS),
    "ratings.csv": "userId,movieId,rating,timestamp\n"
    + "\n".join(f"{user},{item},{rating:g},8812" for user, item, rating in ROWS),
}


def written(folder: Path, name: str, text: str) -> MovieLens:
    (folder / "ml").mkdir()
    (folder / "ml" / name).write_text(text)
    return MovieLens("ml", num_held_out=1, min_ratings=3, data_dir=str(folder))


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gives_the_same_ratings_dealt_out_by_user(name: str, tmp_path: Path) -> None:
    table = written(tmp_path, name, TEXT[name])
    parts = [rows.sparse for rows in (table.training(), table.validation(), table.test())]
    held_out = [parts[0]["ratings"].toarray(), parts[1]["held_out"].toarray(), parts[2]["held_out"].toarray()]
    whole = sum(held_out)
    assert whole.tolist() == [[1, 0, 2, 3.5], [5, 4, 3, 0]]  # users 2, 9; items 40, 41, 70, 99; 7 rated only one
    assert [(part > 0).sum(1).tolist() for part in held_out] == [[1, 1]] * 3
    np.testing.assert_array_equal(parts[2]["excluded"].toarray(), held_out[1])
    np.testing.assert_array_equal(parts[2]["ratings"].toarray(), held_out[0])
    assert Tables(table).row_shapes == {"ratings": (4,)}


def test_synthetic_ratings_follow_taste_and_seed() -> None:
    table = SyntheticRatings(60, 40, 15, 3, 2, seed=1)
    user, item, rating = table.read_ratings()
    assert len(rating) == 900
    assert np.unique(rating).tolist() == [1, 2, 3, 4, 5]
    assert all(len(np.unique(item[user == one])) == 15 for one in range(60))
    assert np.mean(rating) > 3.2  # liked items are rated more often
    again, other = SyntheticRatings(60, 40, 15, 3, 2, seed=1), SyntheticRatings(60, 40, 15, 3, 2, seed=2)
    assert (again.training().sparse["ratings"] != table.training().sparse["ratings"]).nnz == 0
    assert (other.training().sparse["ratings"] != table.training().sparse["ratings"]).nnz > 0
    with pytest.raises(ValueError, match="min_ratings must be at least 11"):
        SyntheticRatings(num_rated=10)
