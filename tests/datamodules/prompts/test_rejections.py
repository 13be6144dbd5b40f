from pathlib import Path
from typing import Any

import pytest

from datamodules.classification.digits import Digits
from datamodules.files.whole_files import DamagedFile
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.noise_pair_files import caption_in, kept_pairs, write_scores
from datamodules.prompts.prompt_sets import PromptFile
from tests.datamodules.prompts.test_captioned_images import digits
from tests.datamodules.prompts.test_noise_pair_files import written
from tests.rejections import Row, rejections


def no_better_pair(root: Path) -> object:
    written(root, 0, [1.0], [1.0])
    write_scores(root)
    return kept_pairs(root, root / "scores.jsonl", 0.0)


def cut_pair(root: Path) -> object:
    written(root, 1, [0.0], [1.0])
    path = root / "1_7.npz"
    path.write_bytes(path.read_bytes()[:-1])
    return caption_in(path)


def what_is_no_list_of_texts(root: Path, content: str) -> object:
    (root / "prompts.jsonl").write_text(content)
    return PromptFile(str(root / "prompts.jsonl")).prompts()


# fmt: off
REJECTED: list[Row] = [
    ("digits", lambda _: digits().setup("test"), ValueError, "test needs images that are held out"),
    ("few digits",
     lambda _: CaptionedImages(CaptionedClasses(Digits(train_size=8)), validation_fraction=0.02).setup("test"),
     ValueError, r"validation_fraction 0.02 holds out none of 8: .* of at least 0.12$"),
    ("CaptionedImages train_size",
     lambda _: CaptionedImages(CaptionedClasses(Digits(train_size=2)), validation_fraction=0.9).setup("fit"),
     ValueError, "leaves none of 2 images for training"),
    ("no better pair", no_better_pair, ValueError, r"none of 1 pairs in .* improves the score"),
    ("cut pair", cut_pair, DamagedFile, r"1_7.npz is damaged"),
    ("what is no list of texts 1", lambda root: what_is_no_list_of_texts(root, ""), ValueError, "has no prompt"),
    ("what is no list of texts 2", lambda root: what_is_no_list_of_texts(root, '{"text": "a"}'), ValueError,
     "line 1: expected caption, got text"),
    ("what is no list of texts 5", lambda root: what_is_no_list_of_texts(root, '{"caption": "a", "seed": -1}'),
     ValueError, "seed must be at least 0, got -1"),
    ("what is no list of texts 6",
     lambda root: what_is_no_list_of_texts(root, '{"caption": "a", "index": 3}\n{"caption": "b", "index": 3}'),
     ValueError, "2 prompts with the index 3"),
    ("PromptFile 1", lambda root: PromptFile(str(root / "none.txt")).prompts(), FileNotFoundError,
     r"no prompts at .*none.txt"),
    ("PromptFile 2", lambda _: PromptFile("a.parquet"), ValueError,
     r"path must end in .txt, .jsonl, .json, .csv, got a.parquet"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
