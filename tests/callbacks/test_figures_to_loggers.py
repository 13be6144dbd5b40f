from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from callbacks.figures_to_loggers import FiguresToLoggers

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")


class PictureLogger(CSVLogger):
    """Imitates the logger of a service: it stores the figures it receives."""

    kept: dict[str, Any]

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        PictureLogger.kept = {}

    def log_hyperparams(self, params: Any = None) -> None:
        self.kept["settings"] = params

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.kept.setdefault(key, []).append((images, step))


def test_a_run_gives_its_settings_and_figures_to_every_logger(tmp_path: Path) -> None:
    logger = (
        f"{{class_path: tests.callbacks.test_figures_to_loggers.PictureLogger, init_args: {{save_dir: {tmp_path}}}}}"
    )
    fit = ("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "1", "--trainer.logger", logger)
    assert train.main([*fit, "--run_directory", str(tmp_path / "run"), *QUIET]) == 0
    settings = PictureLogger.kept.pop("settings")
    assert settings["model.strength"] == 3.0
    assert settings["data.label_noise.noise_rate"] == 0.4
    assert settings["seed_everything"] == 0
    assert "run_directory" not in settings
    figures = sorted((tmp_path / "run" / "figures").glob("*.png"))
    assert figures
    assert PictureLogger.kept == {path.stem: [([str(path)], 10)] for path in figures}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == [path.stem for path in figures]
    [shown] = events.Images(figures[0].stem)
    with Image.open(figures[0]) as picture:
        assert (shown.height, shown.width) == np.asarray(picture).shape[:2]


def test_a_figure_of_an_earlier_stage_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stage:
        log_dir = str(tmp_path)
        is_global_zero = True
        global_step = 3

        def __init__(self) -> None:
            self.loggers = [PictureLogger(str(tmp_path))]

    (tmp_path / "figures").mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "figures" / "old.png")
    callback, stage = FiguresToLoggers(), Stage()
    callback.setup(stage, None, "test")  # type: ignore[arg-type]
    Image.new("RGB", (4, 2)).save(tmp_path / "figures" / "new.png")
    (tmp_path / "figures" / ".half.partial.png").write_text("")
    callback.teardown(stage, None, "test")  # type: ignore[arg-type]
    assert list(PictureLogger.kept) == ["new"]
