"""An export folder appears complete or not at all, and its README omits characters that a page would interpret."""

from pathlib import Path

import pytest

from datamodules.files.whole_files import new_folder
from experiments.exporting.folder import readme

CONFIG = {"method": "ELR", "kind": "classifier", "inputs": {}, "outputs": {}}


def write_half(output: Path) -> None:
    with new_folder(output) as folder:
        (folder / "model.pt2").write_bytes(b"half")
        raise OSError("full")


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"):
        write_half(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "model.pt2").write_bytes(b"whole")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "model.pt2"]


def test_files_links_and_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with (
            pytest.raises(FileExistsError, match="exists already, and is never overwritten"),
            new_folder(tmp_path / name),
        ):
            pass
    assert not (tmp_path / "nowhere").exists()


def test_metrics_of_a_stranger_are_shown_as_text() -> None:
    text = readme(
        CONFIG, "Summary.", "import torch\n", "Sizes.", {"x|<script>[a](b)`c`\n# d": 0.5, "test/psnr": 28.125}
    )
    assert "| test/psnr | 28.125 |" in text
    table = text.partition("## Metrics of the run")[2]
    assert not set("<>[]()`#") & set(table)
    assert len(table.strip().splitlines()) == 4
