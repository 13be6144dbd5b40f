from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer

from callbacks.detection import DetectionReport
from callbacks.export_effective_weights import ExportEffectiveWeights
from callbacks.save_tables import SaveTables
from callbacks.speech_metrics_table import SpeechMetricsTable
from tests.callbacks import test_save_tables
from tests.callbacks.test_export_effective_weights import trainer_in
from tests.rejections import Row, rejections
from tests.trainers import quiet

# fmt: off
REJECTED: list[Row] = [
    ("DetectionReport 2",
     lambda _: DetectionReport().setup(Trainer(logger=False, barebones=True), LightningModule(), "test"), TypeError,
     r"DetectionReport needs a Detector.* lacks detections, score"),
    ("ExportEffectiveWeights", lambda _: ExportEffectiveWeights().setup(trainer_in(None), LightningModule(), "test"),
     TypeError, "ExportEffectiveWeights needs a EffectiveNetwork, and LightningModule lacks effective_weights"),
    ("SaveTables", lambda _: SaveTables().setup(test_save_tables.trainer_in(None), LightningModule(), "test"),
     TypeError, "SaveTables needs a TableSource, and LightningModule lacks tables"),
    ("SpeechMetricsTable", lambda _: SpeechMetricsTable().setup(quiet(), LightningModule(), "test"), TypeError,
     "SpeechMetricsTable"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
