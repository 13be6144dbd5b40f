"""An export replaces nothing, and its README omits characters that a page would interpret."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.files.whole_files import new_folder
from experiments.exporting.folder import program_example, readme

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


def test_the_example_fills_each_input_with_values_of_its_own_distribution() -> None:
    samples = {
        "image": torch.rand,
        "noise": torch.randn,
        "mask": torch.ones,
        "sigma": lambda *sizes: torch.full(sizes, 0.5),
    }
    inputs = {
        name: SimpleNamespace(sample=sample, dimensions="B" if name == "sigma" else "B C", description=f"the {name}")
        for name, sample in samples.items()
    }
    exported = SimpleNamespace(inputs=inputs, output="logits", dimensions="B K")
    export: Any = SimpleNamespace(exported=exported, traced=SimpleNamespace(sizes={"C": 3}), class_names=None)
    code = program_example(
        export,
        "import torch",
        "model = load()",
        "model(image)",
        "torch.{}({})".format,
        lambda value: str(value.tolist()),
    )
    assert code.splitlines() == [
        "import torch",
        "",
        "model = load()",
        "image = torch.rand(2, 3)  # the image",
        "noise = torch.randn(2, 3)  # the noise",
        "mask = torch.ones(2, 3)  # the mask",
        "sigma = [0.5, 0.5]  # the sigma",
        "logits = model(image)",
        "print(logits.argmax(1))",
    ]
