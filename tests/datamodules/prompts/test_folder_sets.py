import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import grey

NAMES = ["a.png", "more/b.png", "c.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for level, name in enumerate(NAMES):
        grey(tmp_path / name, 40 * level, size=20)
    return tmp_path


def lines(folder: Path, *entries: object) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")


def jsonl(folder: Path) -> None:
    lines(folder, *({"file_name": name, "text": f"the {name}", "other": 1} for name in reversed(NAMES)))


def several_tables(folder: Path) -> None:
    lines(folder, *({"file_name": name, "text": f"the {name}"} for name in ("a.png", "c.png")))
    (folder / "more" / "metadata.csv").write_text("file_name,text\nb.png,the more/b.png\n")


def parquet(folder: Path) -> None:
    table = {"file_name": NAMES, "text": [f"the {name}" for name in NAMES], "more": [[1], [], [2]]}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "metadata.parquet")


def beside(folder: Path) -> None:
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text(f"the {name}\n")


@pytest.mark.parametrize("write", [jsonl, several_tables, parquet, beside])
def test_captions_are_found_in_every_layout(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    captioned = CaptionedFolder(str(folder), image_size=16).training()
    assert captioned.source.names == sorted(NAMES)
    assert captioned.captions == [f"the {name}" for name in sorted(NAMES)]


def test_a_prompt_contains_the_names_of_the_files(folder: Path) -> None:
    (folder / "a.png").rename(folder / "red_hat.png")
    captions = CaptionedFolder(str(folder), image_size=16, prompt="a {} on grass").training().captions
    assert captions is not None
    assert sorted(captions) == ["a b on grass", "a c on grass", "a red hat on grass"]


@pytest.mark.parametrize("write", [beside, lambda folder: None])
def test_one_prompt_is_the_caption_of_all_images(folder: Path, write: Callable[[Path], None]) -> None:
    write(folder)
    captioned = CaptionedFolder(str(folder), image_size=16, prompt="a photo of sks").training()
    assert captioned.captions == ["a photo of sks"] * 3


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([{"file_name": "a.png", "text": "x"}], ValueError, r"c\.png has no caption \(2 of 3 files\); expected it in"),
        ([{"file_name": "z.png", "text": "x"}], FileNotFoundError, r"line 1 names .*z\.png, which does not exist"),
        (
            [{"file_name": "a.png", "caption": "x"}],
            ValueError,
            "line 1: expected file_name and text, got file_",
        ),
        ([3], ValueError, "got nothing"),
    ],
)
def test_captions_that_do_not_fit_are_named(
    folder: Path, entries: list[object], error: type[Exception], message: str
) -> None:
    lines(folder, *entries)
    with pytest.raises(error, match=message):
        CaptionedFolder(str(folder), image_size=16).training()


def test_a_caption_without_an_image_and_a_name_outside_the_folder_are_named(folder: Path) -> None:
    beside(folder)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "z.txt").write_text("no caption")
    CaptionedFolder(str(folder), image_size=16).training()
    (folder / "more" / "z.txt").write_text("a caption")
    with pytest.raises(ValueError, match=r"z\.txt is a caption without an image \(1 of 4 text files\)"):
        CaptionedFolder(str(folder), image_size=16).training()
    assert CaptionedFolder(str(folder), image_size=16, prompt="a").training().captions == ["a"] * 3
    grey(folder.parent / "outside.png", 0)
    lines(folder, {"file_name": "../outside.png", "text": "x"})
    with pytest.raises(ValueError, match=r"line 1 names \.\./outside\.png, which is outside"):
        CaptionedFolder(str(folder), image_size=16).training()


def test_a_damaged_parquet_table_is_named(folder: Path) -> None:
    (folder / "metadata.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match=r"metadata\.parquet cannot be read as a table of texts"):
        CaptionedFolder(str(folder), image_size=16).training()
