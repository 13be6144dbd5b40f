"""Pairs for preference tuning are the best and the worst image of each prompt."""

from pathlib import Path

import pandas as pd
import pytest

from callbacks.generation.preference_pairs import write_pairs
from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import grey


def test_the_best_image_of_a_prompt_is_preferred_to_its_worst(tmp_path: Path) -> None:
    folder, pairs = tmp_path / "generated", tmp_path / "pairs"
    for level in range(6):
        grey(folder / "images" / f"{level}.png", level)
    files = [f"images/{level}.png" for level in range(6)]
    prompts = ["a cat", "a dog", "a cat", "a dog", "a cat", "one"]
    table = pd.DataFrame({"file": files, "prompt": prompts, "reward": [0.5, 2.0, 0.1, 2.0, 0.9, 1.0]})
    assert write_pairs(folder, table, "reward", pairs) == 1  # the dogs are equally good, and one image is no pair
    read = CaptionedFolder(str(pairs / "preferred"), image_size=16, condition_dir=str(pairs / "rejected")).training()
    assert read.captions == ["a cat"]
    for part, level in (("preferred", 4), ("rejected", 2)):
        assert (pairs / part / "000000.png").read_bytes() == (folder / "images" / f"{level}.png").read_bytes()
    with pytest.raises(FileExistsError, match="exists already"):
        write_pairs(folder, table, "reward", pairs)
    with pytest.raises(ValueError, match="--pairs needs a prompt with two images of different reward: generate with"):
        write_pairs(folder, table[1::2], "reward", tmp_path / "none")
    assert not (tmp_path / "none").exists()
