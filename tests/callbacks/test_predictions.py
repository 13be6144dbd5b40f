from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import predictions
from callbacks.predictions import WritePredictions, append_predictions, merge_predictions
from datamodules.segmentation.mask_files import read_mask
from tests.trainers import quiet

NUM_SAMPLES = 23
NUM_CLASSES = 4


def probabilities() -> Tensor:
    return torch.rand(NUM_SAMPLES, NUM_CLASSES, generator=torch.Generator().manual_seed(0)).softmax(dim=1)


class Known(LightningModule):
    num_classes = NUM_CLASSES

    def forward(self, image: Tensor) -> Tensor:
        return image

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        probability = probabilities()[batch["index"]]
        return {
            "index": batch["index"],
            "probabilities": probability.bfloat16() if self.dtype == torch.bfloat16 else probability,
            "prediction": probability.argmax(dim=1),
        }


class Shuffled(LightningDataModule):
    """23 shuffled samples, in batches of 4 distributed over all processes, without padding."""

    def predict_dataloader(self) -> DataLoader:
        rank, world = self.trainer.global_rank, self.trainer.world_size  # type: ignore[union-attr]
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(1))
        return DataLoader([{"index": part[rank::world]} for part in order.split(4)], batch_size=None)  # type: ignore[arg-type]


class Named(Shuffled):
    class_names = ("ant", "bee", "cat", "dog")


def predict(directory: Path, callback: WritePredictions, module: LightningModule, data: Any, processes: int = 1) -> Any:
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = quiet(devices=processes, strategy=strategy, default_root_dir=directory, callbacks=[callback])
    return trainer.predict(module, datamodule=data, return_predictions=False)


def read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


@pytest.mark.parametrize(("format", "processes"), [("parquet", 1), ("csv", 2)])
def test_every_sample_is_written_once_in_order(tmp_path: Path, format: Any, processes: int) -> None:
    predict(tmp_path, WritePredictions(format), Known(), Shuffled(), processes)
    assert [path.name for path in tmp_path.glob("predictions*")] == [f"predictions.{format}"]
    table = read(tmp_path / f"predictions.{format}")
    assert list(table) == ["index", "prediction", *(f"probability_{k}" for k in range(NUM_CLASSES))]
    assert table["index"].tolist() == list(range(NUM_SAMPLES))
    assert table["prediction"].tolist() == probabilities().argmax(dim=1).tolist()
    written = table.filter(like="probability_").to_numpy().astype(np.float32)
    np.testing.assert_array_equal(written, probabilities().numpy())


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_names_of_the_classes_are_written(tmp_path: Path, format: Any) -> None:
    predict(tmp_path, WritePredictions(format), Known(), Named())
    table = read(tmp_path / f"predictions.{format}")
    assert list(table)[:3] == ["index", "prediction", "class_name"]
    assert table["class_name"].tolist() == [Named.class_names[k] for k in table["prediction"]]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Known(), "Predictions are written to {}/predictions.csv: 23 rows"),
        (None, "Masks are written to {}/predictions:"),
    ],
)
def test_the_message_names_the_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, message: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(predictions, "rank_zero_info", said.append)
    predict(tmp_path, WritePredictions("csv"), module or Segments(), Shuffled())
    assert len(said) == 1
    assert said[0].startswith(message.format(tmp_path))


def write_part(path: Path, index: list[int], num_classes: int = 3) -> None:
    with path.open("wb") as file:
        for start in range(0, len(index), 2):
            part = np.array(index[start : start + 2])
            shares = np.repeat(part[:, None] / 100, num_classes, axis=1).astype(np.float32)
            append_predictions(file, part, part % num_classes, shares)


@pytest.mark.parametrize("format", ["parquet", "csv"])
@pytest.mark.parametrize("values_at_once", [1, 7, 10**6])
def test_parts_merge_without_duplicates_however_little_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any, values_at_once: int
) -> None:
    monkeypatch.setattr(predictions, "VALUES_AT_ONCE", values_at_once)
    parts = [tmp_path / name for name in "abc"]
    write_part(parts[0], [7, 0, 4, 7, 2])
    write_part(parts[1], [])
    write_part(parts[2], [9, 1, 4])
    assert merge_predictions(parts, tmp_path / f"table.{format}", format) == 6
    table = read(tmp_path / f"table.{format}")
    assert table["index"].tolist() == [0, 1, 2, 4, 7, 9]
    assert table["prediction"].tolist() == [index % 3 for index in table["index"]]
    np.testing.assert_array_equal(table["probability_2"].astype(np.float32), (table["index"] / 100).astype(np.float32))
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize(
    ("parts", "names", "error", "message"),
    [
        ("ac", None, FileNotFoundError, "the predictions of one rank are missing, .*c: check"),
        ("ab", None, ValueError, r"different numbers of classes, \[3, 5\]"),
        ("e", None, ValueError, "no sample"),
        ("a", ["ant", "bee"], ValueError, "class_names has 2 names for 3 classes"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, parts: str, names: Any, error: Any, message: str) -> None:
    write_part(tmp_path / "a", [0, 1])
    write_part(tmp_path / "b", [2, 3], num_classes=5)
    write_part(tmp_path / "e", [])
    with pytest.raises(error, match=message):
        merge_predictions([tmp_path / part for part in parts], tmp_path / "table.csv", "csv", names)
    assert not (tmp_path / "table.csv").exists()


def test_half_precision_probabilities_are_written_in_single_precision(tmp_path: Path) -> None:
    predict(tmp_path, WritePredictions(), Known().to(torch.bfloat16), Shuffled())
    table = read(tmp_path / "predictions.parquet")
    assert table["probability_0"].dtype == np.float32
    np.testing.assert_array_equal(table["probability_0"], probabilities()[:, 0].bfloat16().float())


def test_a_step_that_returns_something_else_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class LogitsOnly(Known):
        def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:  # type: ignore[override]
            return batch["index"]

    with pytest.raises(ValueError, match=r"\['index', 'prediction', 'probabilities'\].*LogitsOnly returns Tensor"):
        predict(tmp_path, WritePredictions(), LogitsOnly(), Shuffled())
    assert not list(tmp_path.iterdir())


class Segments(Known):
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        pixel = torch.arange(6).view(2, 3)
        return {"index": batch["index"], "prediction": (batch["index"][:, None, None] + pixel).to(torch.uint8)}


@pytest.mark.parametrize("processes", [1, 2])
def test_masks_replace_those_of_before_in_a_folder(tmp_path: Path, processes: int) -> None:
    for stale in ("predictions", "predictions.partial"):
        (tmp_path / stale).mkdir()
        (tmp_path / stale / "000099.png").touch()
    predict(tmp_path, WritePredictions(), Segments(), Shuffled(), processes)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]
    paths = sorted((tmp_path / "predictions").iterdir())
    assert [path.name for path in paths] == [f"{sample:06d}.png" for sample in range(NUM_SAMPLES)]
    for sample, path in enumerate(paths):
        assert np.array_equal(read_mask(path), sample + np.arange(6).reshape(2, 3))


def test_a_module_that_is_no_classifier_is_left_alone(tmp_path: Path) -> None:
    class Writer(LightningModule):
        def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return batch["index"]

    predict(tmp_path, WritePredictions(), Writer(), Shuffled())
    assert not list(tmp_path.iterdir())


class Nowhere(DummyLogger):
    save_dir = None


def test_a_fast_dev_run_writes_nothing_and_another_run_needs_a_directory() -> None:
    options: Any = {"logger": Nowhere(), "callbacks": [WritePredictions()]}
    quiet(fast_dev_run=True, **options).predict(Known(), datamodule=Shuffled())
    with pytest.raises(ValueError, match="has no directory"):
        quiet(**options).predict(Known(), datamodule=Shuffled())
