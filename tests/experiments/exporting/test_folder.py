"""An export replaces nothing, and its README omits characters that a page would interpret."""

from pathlib import Path

import pytest

from datamodules.files.whole_files import new_folder
from experiments.exporting.folder import readme

CONFIG = {"method": "ELR", "kind": "classifier", "inputs": {}, "outputs": {}}


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
