import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.prompts.noise_pair_files import (
    caption_in,
    kept_pairs,
    pair_file,
    read_pair,
    write_pair,
    write_scores,
)


def written(folder: Path, index: int, before: list[float], after: list[float]) -> None:
    noise = torch.full((4, 2, 2), float(index))
    write_pair(pair_file(folder, index, 7 * index), noise, noise + 1, f"text {index}", before, after)


def test_a_pair_is_in_the_layout_of_the_authors_and_its_line_is_put_together(tmp_path: Path) -> None:
    for index in (10, 2):
        written(tmp_path, index, [0.5, 3.0], [0.25 * index, 1.0])
    with np.load(tmp_path / "10_70.npz") as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_1"].shape) == ((1, 4, 2, 2), (1, 4, 2, 2))
        assert arrays["arr_2"].item() == 10
    assert caption_in(tmp_path / "10_70.npz") == "text 10"
    assert [array.mean() for array in read_pair(tmp_path / "2_14.npz")] == [2, 3]
    write_scores(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    expected = {"index": 2, "seed": 14, "caption": "text 2"}
    assert lines[0] == expected | {"original_score_list": [0.5, 3.0], "optimized_score_list": [0.5, 1.0]}
    assert [line["index"] for line in lines] == [2, 10]


@pytest.mark.parametrize(("margin", "kept"), [(0.0, [1, 3]), (0.5, [3]), (None, [0, 1, 2, 3])])
def test_pairs_are_kept_whose_first_score_rises_by_more_than_the_margin(
    tmp_path: Path, margin: float | None, kept: list[int]
) -> None:
    for index, after in enumerate((1.0, 1.5, 0.0, 1.75)):  # a tie, exactly the margin, a decrease
        written(tmp_path, index, [1.0, 0.0], [after, 9.0])
    write_scores(tmp_path)
    found = kept_pairs(tmp_path, tmp_path / "scores.jsonl", margin)
    assert [(pair.path.name, pair.caption) for pair in found] == [(f"{k}_{7 * k}.npz", f"text {k}") for k in kept]


def theirs(folder: Path, **lists: Any) -> None:
    """Write a pair and its line like the authors' scripts: in half precision, in a subfolder, without a seed."""
    noise = np.ones((1, 4, 2, 2), dtype=np.float16)
    (folder / "part").mkdir()
    np.savez(folder / "part" / "3.npz", noise, 2 * noise, 3)
    (folder / "scores.jsonl").write_text(json.dumps({"index": 3, "caption": "a cat", **lists}))


def test_pairs_of_the_authors_scripts_are_read(tmp_path: Path) -> None:
    theirs(tmp_path, original_score_list=[0.1], optimized_score_list=[0.2])
    [pair] = kept_pairs(tmp_path, tmp_path / "scores.jsonl", 0.0)
    assert pair.caption == "a cat"
    assert [array.shape for array in read_pair(pair.path)] == [(4, 2, 2), (4, 2, 2)]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "scores.jsonl").unlink(), "no scores of the pairs at .*scores.jsonl"),
        (lambda folder: (folder / "scores.jsonl").write_text('{"index": "3"}'), "line 1: expected index and caption"),
        (lambda folder: (folder / "2.npz").touch(), r"2.npz has no line in .*scores.jsonl"),
        (lambda folder: (folder / "best.npz").touch(), r"best.npz is not a noise pair: expected <index>.npz"),
        (lambda folder: (folder / "part" / "3.npz").unlink(), "no noise pairs in"),
        (lambda folder: None, "line 1 lacks a score .* set margin to null to keep all pairs"),
    ],
)
def test_what_does_not_belong_together_is_named(tmp_path: Path, break_it: Any, message: str) -> None:
    theirs(tmp_path)
    break_it(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kept_pairs(tmp_path, tmp_path / "scores.jsonl", 0.0)


def test_a_damaged_pair_and_one_of_other_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.npz").write_bytes(b"PK no archive")
    np.savez(tmp_path / "2.npz", np.ones(3))
    np.savez(tmp_path / "3.npz", np.ones((4, 2, 2)), np.ones((4, 2, 3)))
    for name, message in (("1", "is damaged"), ("2", "lacks arr_0 or arr_1"), ("3", "must contain two arrays")):
        with pytest.raises(ValueError, match=rf"{name}.npz .*{message}"):
            read_pair(tmp_path / f"{name}.npz")
