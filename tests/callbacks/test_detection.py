from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.detection import DetectionReport, draw_detection, metrics_table, scores_table
from lightning_modules.metrics.detection import METRICS, DetectionResult
from tests.trainers import quiet


def detection(target: str = "other") -> DetectionResult:
    random = torch.Generator().manual_seed(0)
    found = DetectionResult(
        target,
        index=torch.cat([torch.arange(30), torch.arange(20)]),
        is_target=torch.arange(50) >= 30,
        is_validation=torch.cat([torch.arange(30), torch.arange(20)]) < 5,
    )
    noise = torch.randn(50, generator=random, dtype=torch.float64)
    found.confidence = {"softmax": noise, "mean": noise - 4 * found.is_target.double(), "flat": torch.zeros(50)}
    found.epsilon = {"mean": 0.01}
    found.num_neighbours = {"flat": 20}
    return found


class Detects(LightningModule):
    score = "mean"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.detections = [detection("one"), detection("two")]

    def test_step(self, batch: Tensor, batch_idx: int) -> None: ...


def test_tables_hold_every_set_method_and_input() -> None:
    one = detection()
    table = metrics_table([one, detection("two")])
    assert list(table["set"]) == ["other"] * 3 + ["two"] * 3
    row = table[(table["set"] == "other") & (table["method"] == "mean")].iloc[0]
    assert (row["epsilon"], row["num_in_distribution"], row["num_other"]) == (0.01, 25, 15)
    measured = ~one.is_validation
    above = (
        one.confidence["mean"][measured & ~one.is_target][:, None] > one.confidence["mean"][measured & one.is_target]
    )
    assert row["auroc"] == pytest.approx(above.double().mean().item(), abs=1e-6)
    assert table[table["method"] == "flat"]["auroc"].tolist() == [0.5, 0.5]
    assert np.isnan(table[table["method"] == "softmax"]["epsilon"]).all()
    assert table["num_neighbours"].dropna().tolist() == [20, 20]
    scores = scores_table([one])
    np.testing.assert_array_equal(scores["mean"], one.confidence["mean"])
    assert scores["is_target"].sum() == 20
    assert scores["is_validation"].sum() == 10


def test_the_picture_has_two_panels_for_each_set() -> None:
    figure = draw_detection([detection(), detection("other_digits")], "mean")
    assert [axes.get_title() for axes in figure.axes] == [
        *("other: confidence of mean", "other: ROC (AUROC)"),
        *("other digits: confidence of mean", "other digits: ROC (AUROC)"),
    ]
    shares = [sum(bar.get_height() for bar in container) for container in figure.axes[0].containers]
    assert shares == pytest.approx([1, 1])
    assert "confidence of softmax" in draw_detection([detection()], "absent").axes[0].get_title()


def test_a_run_writes_them_whole(tmp_path: Path) -> None:
    trainer = quiet(default_root_dir=tmp_path, callbacks=[DetectionReport()])
    trainer.test(Detects(), torch.utils.data.DataLoader(torch.zeros(2, 1)), verbose=False)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        *("detection.csv", "detection_scores.csv", "figures/detection.png")
    ]
    table = pd.read_csv(tmp_path / "detection.csv")
    columns = ["set", "method", "epsilon", "num_neighbours", *METRICS, "num_in_distribution", "num_other"]
    assert list(table.columns) == columns
    assert (tmp_path / "figures" / "detection.png").read_bytes()[:4] == b"\x89PNG"
