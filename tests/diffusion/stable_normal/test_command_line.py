"""From a saved pipeline to a folder of normals, with the full-scale configurations of the paper and tiny networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conformance.runs import CONFIGS, run
from tests.diffusion.stable_normal.small import released_folder

FEATURES = "--model.refiner.features"
SMALL = {
    f"{FEATURES}.network.init_args": "{name: test_vit, num_classes: 0, image_size: 32, pretrained: false}",
    f"{FEATURES}.image_size": "32",
}
QUIETLY = {
    "--trainer.accelerator": "cpu",
    "--trainer.precision": "32-true",
    "--trainer.enable_progress_bar": "false",
    "--trainer.enable_model_summary": "false",
}
SURFACES = {
    "--data.training": "datamodules.normals.height_fields.HeightFields",
    "--data.training.init_args": "{num_training: 4, image_size: 16}",
    "--data.batch_size": "2",
    "--data.crop_size": "16",
    "--trainer.max_steps": "2",
}


def call(command: str, config: str, options: dict[str, str]) -> None:
    arguments = [part for pair in ({**options, **QUIETLY}).items() for part in pair]
    run(command, "--config", CONFIGS / "stable_normal" / f"{config}.yaml", *arguments)


def photograph(folder: Path) -> str:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "room.png")
    return str(folder)


def check_normals(path: Path) -> None:
    found = np.asarray(Image.open(path))
    assert found.shape == (30, 44, 3)
    np.testing.assert_allclose(np.linalg.norm(found / 255 * 2 - 1, axis=2), 1, atol=0.01)


@pytest.mark.nightly
def test_both_stages_are_trained_apart_saved_and_applied_to_photographs(
    text_to_image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("yoso", "refiner"):
        options = {f"--model.{stage}.model.pipeline": str(text_to_image), "--run_directory": str(tmp_path / stage)}
        call("fit", stage, {**SURFACES, **options, **(SMALL if stage == "refiner" else {})})
    saved = {
        f"--model.{stage}.{key}": str(tmp_path / stage / "saved" / stage)
        for stage in ("yoso", "refiner")
        for key in ("model.pipeline", "encoders")
    }
    more = {
        "--data.predict_dir": photograph(tmp_path / "given"),
        "--run_directory": str(tmp_path / "out"),
        "--ckpt_path": "none",
    }
    more["--model.resolution"] = "32"
    with pytest.raises(AssertionError):
        call("predict", "stable_normal", {**SMALL, **saved, **more, "--model.steps": "4"})
    assert "with steps 4 needs the target independent at the level t = 251" in capsys.readouterr().err
    call("predict", "stable_normal", {**SMALL, **saved, **more})
    check_normals(tmp_path / "out" / "normals" / "room.png")


@pytest.mark.nightly
def test_a_released_model_gives_the_normals_of_a_photograph(
    text_to_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    released_folder(text_to_image, tmp_path / "yoso")
    places = {f"--model.yoso.{key}": str(tmp_path / "yoso") for key in ("model.pipeline", "encoders")}
    options = {"--data.predict_dir": photograph(tmp_path / "given"), "--run_directory": str(tmp_path / "out")}
    sizes = {"--model.resolution": "32", "--model.yoso.model.weights.variant": "null", "--ckpt_path": "none"}
    call("predict", "released_turbo", {**places, **options, **sizes})
    check_normals(tmp_path / "out" / "normals" / "room.png")
    assert not Path("ran").exists()
