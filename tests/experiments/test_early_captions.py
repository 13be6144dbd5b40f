"""Missing captions are reported before a pipeline of several GB is loaded: here there is none to load."""

from pathlib import Path

import pytest

import train
from tests.datamodules.image_folders import shades


@pytest.mark.parametrize(
    "config, pipeline",
    [
        ("diffusion_finetuning/lora.yaml", "--model.network.pipeline"),
        ("one_more_step/stable_diffusion.yaml", "--model.model.pipeline"),
    ],
)
def test_missing_captions_are_reported_before_the_pipeline_is_loaded(
    config: str, pipeline: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shades(tmp_path, "mine", ["sks"])
    folder = ["--data.images.data_dir", str(tmp_path / "mine"), pipeline, str(tmp_path / "no_pipeline")]
    command = ["fit", "--config", f"configs/{config}", *folder, "--run_directory", str(tmp_path / "run")]
    assert train.main(command) == 1
    assert "captions, and the data have none" in capsys.readouterr().err
    assert train.main([*command, "--data.images.prompt", "a photo of sks"]) == 1
    assert "no_pipeline" in capsys.readouterr().err
