import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from diffusers import PNDMScheduler, UNet2DConditionModel
from PIL import Image

import train
from tests.command import run as command


def arguments(folder: Path, pipeline: Path) -> list[str]:
    return [
        *("--config", "configs/diffusion_guard/stable_diffusion.yaml", "--data.images.data_dir", str(folder)),
        *(
            "--data.images.image_size",
            "16",
            "--model.attack.iterations",
            "3",
            "--model.inpainter.pipeline",
            str(pipeline),
        ),
        *("--model.inpainter.num_inference_steps", "2", "--trainer.accelerator", "cpu"),
        *("--model.inpainter.gradient_checkpointing", "false", "--trainer.enable_progress_bar", "false"),
    ]


def test_a_folder_is_protected_and_resumed(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = arguments(folder, pipeline)
    run = tmp_path / "run"
    assert train.main(["predict", *common, "--run_directory", str(run)]) == 0
    files = sorted((run / "protected").iterdir())
    assert [file.name for file in files] == ["one.png", "two.png"]
    given = np.array(Image.open(folder / "images" / "one.png").convert("RGB").resize((16, 16)), dtype=int)
    change = np.abs(np.array(Image.open(files[0]), dtype=int) - given)
    kept = np.array(Image.open(folder / "masks" / "one" / "seen.png").resize((16, 16))) > 127
    assert 0 < change[kept].max() <= 8
    assert change[~kept].max() == 0
    written = [file.read_bytes() for file in files]
    files[1].unlink()
    made = files[0].stat().st_mtime_ns
    assert train.main(["predict", *common, "--run_directory", str(run)]) == 0
    assert files[1].read_bytes() == written[1]
    assert files[0].stat().st_mtime_ns == made  # existing files are unchanged
    capsys.readouterr()
    assert train.main(["predict", *common, "--model.attack.epsilon", "0.01", "--run_directory", str(run)]) != 0
    assert "made with epsilon 0.03137254901960784, and this run has 0.01" in capsys.readouterr().err
    assert files[1].read_bytes() == written[1]


@pytest.mark.nightly
def test_what_predict_says_last_is_where_the_images_are(folder: Path, pipeline: Path, tmp_path: Path) -> None:
    printed = command("predict", *arguments(folder, pipeline), "--run_directory", tmp_path / "run")
    assert "predict returned None" not in printed
    assert f"Protected images are written to {tmp_path / 'run' / 'protected'}" in printed.splitlines()[-2:]


@pytest.mark.nightly
def test_a_folder_is_not_continued_with_another_inpainter_or_size(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run_directory", str(tmp_path / "run")]
    assert train.main(["predict", *arguments(folder, pipeline), *run]) == 0
    file = tmp_path / "run" / "protected" / "two.png"
    file.unlink()
    other = tmp_path / "other"
    shutil.copytree(pipeline, other)
    unet = UNet2DConditionModel.from_pretrained(other, subfolder="unet")
    unet.conv_out.bias.data[0] += 1
    unet.save_pretrained(other / "unet")
    rescheduled = tmp_path / "rescheduled"
    shutil.copytree(pipeline, rescheduled)
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_end=0.01).save_pretrained(rescheduled / "scheduler")
    for options, setting in [
        (["--model.inpainter.pipeline", str(other)], "hash_of_inpainter"),
        (["--model.inpainter.pipeline", str(rescheduled)], "hash_of_inpainter"),
        (["--data.images.image_size", "24"], "image_shape [3, 16, 16], and this run has [3, 24, 24]"),
        (["--trainer.precision", "bf16-mixed"], "precision '32-true', and this run has 'bf16-mixed'"),
    ]:
        capsys.readouterr()
        assert train.main(["predict", *arguments(folder, pipeline), *options, *run]) != 0
        assert f"was made with {setting}" in capsys.readouterr().err
        assert not file.exists()
    moved = tmp_path / "moved"
    shutil.copytree(pipeline, moved)  # the same weights in a different folder count as the same inpainter
    assert train.main(["predict", *arguments(folder, moved), *run]) == 0
    assert file.exists()


def test_other_images_of_the_same_names_are_not_taken_for_those_that_are_protected(
    folder: Path, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def protect(photos: Path) -> int:
        options = ["--data.loading.evaluation_batch_size", "2", "--run_directory", str(run)]
        return train.main(["predict", *arguments(photos, pipeline), *options])

    assert protect(folder) == 0
    written = {file.name: file.read_bytes() for file in (run / "protected").iterdir()}
    for changed in ("images/two.png", "masks/two/seen_hand.png"):
        photos = tmp_path / Path(changed).stem
        shutil.copytree(folder, photos)
        pixels = np.array(Image.open(photos / changed))
        pixels[5, 5] = 255 - pixels[5, 5]
        pixels[:, 10] = 0
        Image.fromarray(pixels).save(photos / changed)
        capsys.readouterr()
        assert protect(photos) != 0
        assert f"{run / 'protected' / 'two.png'} was written for other input data" in capsys.readouterr().err
        assert {file.name: file.read_bytes() for file in (run / "protected").iterdir()} == written
    # Inputs that do not affect protection may differ: masks of unseen editors, and other images with more masks.
    for name in ("images/two.png", "masks/two", "masks/one/unseen1.png", "prompts.json"):
        (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)
    assert protect(folder) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_leaves_the_rest_of_an_image_alone(
    folder: Path, pipeline: Path, tmp_path: Path, precision: str
) -> None:
    common = [*arguments(folder, pipeline), "--trainer.precision", precision]
    assert train.main(["predict", *common, "--run_directory", str(tmp_path)]) == 0
    given = np.array(Image.open(folder / "images" / "one.png").resize((16, 16)), dtype=int)
    change = np.abs(np.array(Image.open(tmp_path / "protected" / "one.png"), dtype=int) - given)
    kept = np.array(Image.open(folder / "masks" / "one" / "seen.png").resize((16, 16))) > 127
    assert 0 < change[kept].max() <= 8
    assert change[~kept].max() == 0
    assert train.main(["test", *common, "--run_directory", str(tmp_path / "test")]) == 0
    metrics = pd.read_csv(tmp_path / "test" / "test_metrics.csv").set_index("metric")["value"]
    assert np.isfinite(metrics).all()
    digits = metrics["test/edit_psnr"] * 4
    assert digits != round(digits)  # bfloat16 has a resolution of quarters there
