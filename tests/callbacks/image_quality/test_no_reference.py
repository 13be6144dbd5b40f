import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.image_quality import ImageMetricsTable, NoReferenceMetrics
from callbacks.image_quality.no_reference import chosen_frames
from callbacks.image_quality.pyiqa_measures import PyIQAMeasure
from datamodules.loading import Loading
from datamodules.video.clip_pairs import ClipPairs
from lightning_modules.restoration.negvsr.written_clips import ClipWriter
from tests.callbacks.image_quality.test_table import measures_of_a_run
from tests.datamodules.video.folders import frames, write_frames
from tests.trainers import quiet


class Brightness(nn.Module):
    """Replaces a pyiqa metric: returns the mean of an RGB image, or with a reference, the difference of the means."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.metric_mode = "FR" if name == "lpips" else "NR"

    def forward(self, image: Tensor, clean: Tensor | None = None) -> Tensor:
        assert image.shape[:2] == (1, 3)
        if min(image.shape[2:]) < 8:
            raise AssertionError("too small")
        return image.mean() if clean is None else (image - clean).mean()[None]


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(create_metric=lambda name, device: Brightness(name).to(device))
    monkeypatch.setitem(sys.modules, "pyiqa", library)


class Same(ClipWriter, LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def estimate(self, batch: Any) -> Tensor:
        return batch["noisy"] + self.weight


@pytest.mark.usefixtures("pyiqa")
def test_three_frames_of_each_written_clip_are_measured(tmp_path: Path) -> None:
    clips = {"a": frames(5), "b": frames(8, seed=1), "c": frames(1, seed=2)}
    for name, clip in clips.items():
        write_frames(tmp_path / "given" / name, clip)
    for run, options in (("run", {}), ("every", {"all_frames": True, "metrics": ["niqe"]})):
        trainer = quiet(default_root_dir=tmp_path / run, callbacks=[NoReferenceMetrics(**options)])
        trainer.predict(
            Same(),
            ClipPairs(predict_dir=str(tmp_path / "given"), loading=Loading(num_workers=0)),
            return_predictions=False,
        )
    table = pd.read_csv(tmp_path / "run" / "no_reference.csv")
    expected = [("a", 0), ("a", 2), ("a", 4), ("b", 0), ("b", 4), ("b", 7), ("c", 0)]
    assert list(table["name"]) == [*(f"{clip}/{number:08d}.png" for clip, number in expected), "mean"]
    values = [clips[clip][number].mean() / 255 for clip, number in expected]
    np.testing.assert_allclose(table["brisque"], [*values, np.mean(values)], rtol=1e-6)
    assert list(table) == ["name", "nrqm", "niqe", "pi", "brisque"]
    assert len(pd.read_csv(tmp_path / "every" / "no_reference.csv")) == 5 + 8 + 1 + 1
    hundred = [Path(f"{number}") for number in range(100)]
    assert [path.name for path in chosen_frames(hundred)] == ["0", "50", "99"]  # the frames evaluated for VideoLQ


@pytest.mark.usefixtures("pyiqa")
def test_metrics_of_pyiqa_are_columns_of_the_table_with_and_without_clean_images(tmp_path: Path) -> None:
    found = measures_of_a_run(tmp_path, ImageMetricsTable(pyiqa=["niqe", "lpips"]))
    table = pd.read_csv(tmp_path / "image_quality.csv")
    clean = [torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(row)) for row in range(2)]
    levels = [((each + 0.1).clamp(0, 1) * 255).round() / 255 for each in clean]
    np.testing.assert_allclose(table["niqe"][:2], [float(each.mean()) for each in levels], rtol=1e-5)
    assert found["test/niqe"] == pytest.approx(table["niqe"][2])
    differences = [float((x - (y * 255).round() / 255).mean()) for x, y in zip(levels, clean, strict=True)]
    np.testing.assert_allclose(table["lpips"][:2], differences, rtol=1e-4)
    with pytest.raises(ValueError, match=r"pyiqa: niqe cannot measure images of shape \[1, 4, 4\]: too small"):
        PyIQAMeasure("niqe")(torch.rand(1, 1, 4, 4), None, "clipped")
    with pytest.raises(ValueError, match=r"lpips cannot measure .* there are no clean images"):
        PyIQAMeasure("lpips")(torch.rand(1, 1, 9, 9), None, "clipped")
    with pytest.raises(ValueError, match="pyiqa: psnr is also the name of a metric that is not from pyiqa"):
        ImageMetricsTable(pyiqa=["psnr"])


def test_without_the_package_its_metrics_are_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.warns(UserWarning, match=r"left out: niqe .*noiseworks.no-reference"):
        assert "test/niqe" not in measures_of_a_run(tmp_path, ImageMetricsTable(pyiqa=["niqe"]))
