from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.interpolation.folder_sets import PairsInFolder
from datamodules.loading.global_batches import Request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write four images, one of them in a subfolder."""
    random = np.random.default_rng(0)
    for name, size in (("a.png", (20, 30)), ("b.jpg", (16, 16)), ("c.png", (40, 20)), ("more/d.png", (9, 9))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def batch(folder: Path) -> dict[str, Any]:
    pairs = PairsInFolder(str(folder), image_size=8).pairs(0)
    return pairs[Request(torch.arange(len(pairs)), 0, len(pairs))]


def test_neighbours_are_pairs_without_a_list(folder: Path) -> None:
    found = batch(folder)
    assert found["name"] == ["a_b", "b_c", "c_d"]
    assert found["prompt"] == [""] * 3
    assert torch.equal(found["second"][0], found["first"][1])
    resized = np.asarray(Image.open(folder / "c.png").resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(found["first"][2].permute(1, 2, 0).numpy(), resized)


def test_a_list_says_pairs_and_prompts(folder: Path) -> None:
    (folder / "pairs.csv").write_text('a,b,prompt\nmore/d.png,a.png,"a cat, grey"\nb.jpg,c.png,\n')
    found = batch(folder)
    assert found["name"] == ["d_a", "b_c"]
    assert found["prompt"] == ["a cat, grey", ""]
    (folder / "pairs.csv").write_text("a,b\na.png,c.png\n")
    assert batch(folder)["name"] == ["a_c"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("first,second\na.png,b.jpg\n", ValueError, "must have the columns a, b, prompt, got first, second"),
        ("a,b\n", ValueError, "is empty; expected the columns a, b, prompt"),
        ("a,b\na.png,z.png\n", FileNotFoundError, r"line 2: .*z.png does not exist"),
        ("a,b\na.png,b.jpg\na.png,b.jpg\n", ValueError, "several pairs named a_b"),
    ],
)
def test_wrong_lists_are_refused(folder: Path, text: str, error: type[Exception], message: str) -> None:
    (folder / "pairs.csv").write_text(text)
    with pytest.raises(error, match=message):
        batch(folder)


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image"):
        batch(tmp_path)
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"has only one image, one\.png, but a pair needs two"):
        batch(tmp_path)
