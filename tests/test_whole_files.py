"""Files are written completely or not at all."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from datamodules.classification.selection.label_table import keep_labels
from datamodules.corruptions.label_noise import FromCSV
from datamodules.files.whole_files import save_figure, whole_file, write_csv, write_text


def test_a_file_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"
    with whole_file(path) as partial:
        partial.write_text("a,b\n")
        assert not path.exists()
        assert partial.suffix == ".csv"
        assert partial.name.startswith(".")
    assert path.read_text() == "a,b\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_written_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a power failure could leave an empty file under the final name."""
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(("sync", os.fstat(file).st_size)), sync(file)))
    monkeypatch.setattr(os, "replace", lambda one, other: (done.append(("rename", 0)), replace(one, other)))
    write_text(tmp_path / "table.csv", "a,b\n")
    assert done == [("sync", 4), ("rename", 0)]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("earlier")

    def interrupted() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        interrupted()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_figures_replace_what_was_there(tmp_path: Path) -> None:
    for text in ("one", "±2"):
        write_text(tmp_path / "note.txt", text)
    assert (tmp_path / "note.txt").read_bytes() == "±2".encode()
    for width in (1, 2):
        save_figure(Figure(figsize=(width, 1)), tmp_path / "figures" / "one.png", dpi=50)
    with Image.open(tmp_path / "figures" / "one.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (100, 50)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"note.txt", "one.png"}


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match=r"table\.csv could not be written: No space left on device"), whole_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_devices_and_pipes_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "a,b\n")
    assert os.read(reader, 99) == b"a,b\n"
    os.close(reader)
    assert pipe.is_fifo()
    link = tmp_path / "full.csv"
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"full\.csv could not be written: No space left on device"):
        write_text(link, "a,b\n")
    assert link.is_symlink()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    with whole_file(path) as first:
        first.write_text("one")
        with whole_file(path) as second:
            second.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["statistics.npz"]


@pytest.mark.parametrize("name", ["a\rb.png", "a\r\nb.png", "\r", 'a"b,\r', "a\nb", "plain"])
def test_file_names_with_line_breaks_are_read_back(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"index": [0, 1], "name": [name, "b.png"], "split": "train", "label": [1, 0]})
    write_csv(tmp_path / "labels.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "labels.csv"), table)
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [name, "b.png"]
    for _ in range(2):  # the first call writes the labels of a run, and the second compares with them
        keep_labels(tmp_path / "run" / "labels.csv", table, None, write=True)
    names = [name, "b.png"]
    assert FromCSV(str(tmp_path / "run" / "labels.csv")).apply(np.zeros(2, int), 2, names=names).tolist() == [1, 0]
