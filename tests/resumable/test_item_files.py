from pathlib import Path

import pytest

from datamodules.files.whole_files import DamagedFile
from lightning_modules.resumable.item_files import missing_items


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    assert missing_items(paths) == [0, 1, 2]
    paths[1].write_text("made of b")
    assert missing_items(paths) == [0, 2]
    assert missing_items(paths, ["a", "made of b", "c"], Path.read_text) == [0, 2]


def test_a_file_that_was_made_of_something_else_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    paths[1].write_text("made of b")
    with pytest.raises(ValueError, match="b was not made from what the data have under that name now: remove it"):
        missing_items(paths, ["a", "made of another b"], Path.read_text)


def test_a_damaged_file_is_missing(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(f"made of {path.name}")

    def digest_in(path: Path) -> str:
        if path.name == "a":
            raise DamagedFile(f"{path} is cut off")
        return path.read_text()

    with pytest.warns(UserWarning, match="a is cut off: it is written again"):
        assert missing_items(paths, ["made of a", "made of b"], digest_in) == [0]
