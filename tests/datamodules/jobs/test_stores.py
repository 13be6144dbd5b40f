from pathlib import Path

import numpy as np
import pytest
import tifffile

from datamodules.files.tiff_files import Layout
from datamodules.files.whole_files import DamagedFile
from datamodules.jobs.stacks import PagedImages
from datamodules.jobs.stores import Files, RowStore


def texts(folder: Path) -> Files:
    """Return a store of files, each of which contains the hash of its source."""

    def digest_in(path: Path) -> str:
        if (text := path.read_text()) == "cut off":
            raise DamagedFile(f"{path} is cut off")
        return text

    return Files(folder, ".txt", lambda path, value, digest: path.write_text(digest) and None, digest_in)


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    store = texts(tmp_path)
    assert store.is_empty()
    assert store.missing(["a", "b", "c"]) == [0, 1, 2]
    store.write("b", "", "made of b")
    assert not store.is_empty()
    assert store.missing(["a", "b", "c"]) == [0, 2]
    assert store.missing(["a", "b", "c"], ["a", "made of b", "c"]) == [0, 2]


def test_a_damaged_file_is_missing(tmp_path: Path) -> None:
    store = texts(tmp_path)
    store.write("a", "", "cut off")
    store.write("b", "", "made of b")
    with pytest.warns(UserWarning, match="a.txt is cut off: it is written again"):
        assert store.missing(["a", "b"], ["made of a", "made of b"]) == [0]


def test_what_killed_writers_left_is_no_result_and_goes(tmp_path: Path) -> None:
    store = texts(tmp_path)
    (tmp_path / "below").mkdir()
    for partial in (tmp_path / ".a.partial-01.txt", tmp_path / "below" / ".b.partial-02.txt"):
        partial.touch()
    assert store.is_empty()
    store.tidy()
    assert [path.name for path in tmp_path.rglob("*")] == ["below"]


# rows


def rows(folder: Path) -> RowStore:
    folder.mkdir(exist_ok=True)
    return RowStore(folder, ["item", "value", "time"], varying=["time"])


def row(item: int, value: int = 0, time: int = 0) -> dict[str, str]:
    return {"item": str(item), "value": str(value), "time": str(time)}


def test_a_last_line_without_an_end_is_no_row(tmp_path: Path) -> None:
    """The process that wrote the line may have been killed at any byte."""
    whole = rows(tmp_path / "whole")
    for item in (3, 1):
        whole.write(item, row(item))
    whole.close()
    content = (tmp_path / "whole" / "rank0.tsv").read_bytes()
    for end in range(len(content)):
        store = rows(tmp_path / str(end))
        (store.folder / "rank0.tsv").write_bytes(content[:end])
        missing = store.missing([1, 3])
        assert missing == ([0, 1] if end < len(content) - 6 else [0])
        for position in reversed(missing):
            store.write([1, 3][position], row([1, 3][position]))
        store.close()
        assert (store.folder / "rank0.tsv").read_bytes() == content


def test_contradicting_and_damaged_rows_are_named(tmp_path: Path) -> None:
    for rank, changed in enumerate(({}, {"time": 9}, {"value": 2})):
        store = rows(tmp_path)
        if rank == 2:
            assert list(store.rows()) == [4]  # the same row twice
        store.write(4, row(4, **changed))
        store.close()
        (tmp_path / "rank0.tsv").rename(tmp_path / f"rank{rank + 1}.tsv")
    with pytest.raises(ValueError, match="two different rows of item 4"):
        store.rows()
    (tmp_path / "rank3.tsv").write_text("item\tvalue\ttime\n1\t2\n")
    with pytest.raises(ValueError, match=r"line 2 of .*rank3.tsv is damaged"):
        store.rows()
    (tmp_path / "rank3.tsv").write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"rank3.tsv is damaged .*: remove it"):
        store.rows()


@pytest.mark.parametrize("layout", [Layout((2,), "Z", "imagej", metadata={"unit": "µm"}), Layout((2,), "I", "ome")])
def test_metadata_that_a_format_does_not_accept_cost_no_result(layout: Layout, tmp_path: Path) -> None:
    store = PagedImages(tmp_path, {"a": layout})
    pages = np.arange(48, dtype=np.uint16).reshape(2, 1, 4, 6)
    for number, page in enumerate(pages, start=1):
        store.write(f"a/{number}", page, f"d{number}")
    with pytest.warns(UserWarning, match=r"a\.tif is written without the metadata of its input"):
        store.join_pages()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pages[:, 0])
    again = PagedImages(tmp_path, {"a": layout})
    assert again.missing(["a/1", "a/2"], ["d1", "d2"]) == []
