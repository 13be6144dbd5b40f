"""Runs on clips: a killed run resumes to the bit, `generate` writes the pipeline's frames, bad input is rejected."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from PIL import Image

import train
from datamodules.files.png import digest_in_png
from tests.command import ROOT
from tests.conformance.runs import killed_at, losses, run, state
from tests.datamodules.prompts.test_captioned_clips import captioned_clips
from tests.two_processes import FORK

FAMILIES = "lightning_modules.backbones.diffusion"
CLASS_IMAGES = "{class_path: datamodules.prompts.class_images.ClassImages, init_args: {folder: a, prompt: b}}"
pytestmark = pytest.mark.usefixtures("no_pictures")


def command(pipeline: Path, folder: Path, output: str, *more: Any) -> list[Any]:
    """Return a command that trains adapters on five clips of five frames, in two batches; one more is held out."""
    clips, small = folder / "clips", ("--data.images.num_frames", "5", "--data.images.image_size", "[16, 32]")
    if not clips.is_dir():
        captioned_clips(clips, count=6)
    return [
        *("fit", "--config", str(ROOT / "configs/finetuning/wan_lora.yaml"), "--data.images.data_dir", clips, *small),
        *("--model.network.pipeline", pipeline, "--model.network.adapters.rank", "2", "--data.batch_size", "2"),
        *("--model.cache_dir", folder / "cache", "--model.network.weights.dtype", "float32"),
        *("--data.augmentation.flip", "true", "--data.validation_fraction", "0.17", "--model.caption_dropout", "0.3"),
        *("--data.loading.num_workers", "0", "--checkpoint.every_n_steps", "1", "--model.sampling.steps", "2"),
        *("--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 1.0}}"),
        *("--trainer.max_epochs", "2", "--trainer.max_steps", "-1", "--trainer.accelerator", "cpu"),
        *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
        *("--trainer.enable_model_summary", "false", "--run_directory", folder / output, *more),
    ]


def frames_in(path: Path) -> np.ndarray:
    """Read an animated PNG file, `[T, H, W, C]`."""
    with Image.open(path) as image:
        found = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append(np.array(image.convert("RGB")))
    return np.stack(found)


@pytest.fixture(scope="module")
def trained(wan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run without a cache."""
    folder = tmp_path_factory.mktemp("trained")
    run(*command(wan, folder, "plain", "--model.cache_dir", "null", "--trainer.callbacks", "[]"))
    return folder / "plain"


@pytest.mark.nightly
def test_cached_clips_are_trained_on_like_clips(wan: Path, trained: Path) -> None:
    run(*command(wan, trained.parent, "cached"))
    cached = losses(trained.parent / "cached")
    assert len(cached) == 2
    assert cached == pytest.approx(losses(trained), rel=1e-4)
    assert (trained.parent / "cached" / "figures" / "samples.png").is_file()


def test_generate_writes_the_frames_of_the_pipeline_with_the_runs_adapters(
    wan: Path, trained: Path, tmp_path: Path
) -> None:
    asked = ("--prompts", "a cat", "dog", "--seed", "7", "--guidance", "2", "--accelerator", "cpu")
    run("generate", "--resume", trained, *asked, "--output", tmp_path, "--batch_size", "2")
    alone: Any = WanPipeline.from_pretrained(wan)
    alone.load_lora_weights(trained / "pipeline")
    for number, prompt in enumerate(["a cat", "dog"]):
        expected = alone(
            prompt, height=16, width=32, num_frames=5, num_inference_steps=2, guidance_scale=2.0, output_type="np",
            generator=torch.Generator().manual_seed(7 + number),
        ).frames[0]  # fmt: skip
        path = tmp_path / "images" / f"{number:06d}.png"
        found = frames_in(path)
        assert found.shape == (5, 16, 32, 3)
        assert np.abs(found - expected * 255).max() < 1.01  # the file has integers, rounded down
        assert found.std(axis=0).max() > 0.5
        with Image.open(path) as image:
            assert (image.info["duration"], image.text["prompt"]) == (1000 / 16, prompt)  # type: ignore[attr-defined]
        assert digest_in_png(path) is not None
    assert (tmp_path / "contact_sheet.png").is_file()


def test_generate_writes_the_clips_of_a_pipeline_and_rejects_numbers_of_frames_that_it_rounds(
    wan: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--steps", "2", "--height", "16", "--width", "16", "--seed", "3")
    common = ("--prompts", "dog", "--accelerator", "cpu")
    of_pipeline = ("generate", "--pipeline", wan, *common, *size)
    run(*of_pipeline, "--output", tmp_path, "--frames", "9")
    frames = WanPipeline.from_pretrained(wan)(
        "dog", height=16, width=16, num_frames=9, num_inference_steps=2, output_type="pil",
        generator=torch.Generator().manual_seed(3),
    ).frames[0]  # fmt: skip
    assert np.array_equal(frames_in(tmp_path / "images" / "000000.png"), np.stack([*map(np.array, frames)]))
    for given, message in (
        (of_pipeline, "WanPipeline rounds 6 frames to 5: give this number as --frames"),
        (("generate", "--resume", trained, *common), "--frames must be a multiple of 4 plus 1 for DiffusionFineTuning"),
    ):
        assert train.main([*map(str, given), "--output", str(tmp_path / "new"), "--frames", "6"]) != 0
        assert message in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("cached", [False, True])
def test_a_run_that_is_killed_within_an_epoch_ends_where_a_whole_one_does(
    cached: bool, wan: Path, tmp_path: Path
) -> None:
    """`killed_at` runs the hooks of a step twice, so that averaged weights and the count of updates are left out."""
    more = ("--model.average_decay", "0", *(() if cached else ("--model.cache_dir", "null")))
    run(*command(wan, tmp_path, "whole", *more))
    process = FORK.Process(target=killed_at, args=(4, *map(str, command(wan, tmp_path, "killed", *more))))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed" / "checkpoints" / "step.ckpt", weights_only=True)["global_step"] == 3
    run("fit", "--resume", tmp_path / "killed")
    whole, resumed = (state(tmp_path / name)["state_dict"] for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    trained_weights = [name for name in whole if "lora_" in name]
    assert trained_weights
    assert all(torch.equal(whole[name], resumed[name]) for name in trained_weights)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data.images.num_frames", "6"), "data.images.num_frames must be a multiple of 4 plus 1 for Wan, got 6"),
        (("--data.images.num_frames", "13"), "has 9 frames, but num_frames 13 with frame_stride 1 needs 13"),
        (("--data.images.image_size", "[16, 20]"), "height and width must be multiples of 8: change data.images.image"),
        (("--data.images.mask_dir", "masks"), "mask_dir"),
        (("--data.prior", CLASS_IMAGES), "data.prior has images, but Wan needs clips"),
        (("--model.network.class_path", f"{FAMILIES}.Flux"), "data.images has clips, but Flux needs images"),
    ],
)  # fmt: skip
def test_bad_input_is_rejected_before_the_pipeline_is_loaded(
    more: tuple[str, ...], message: str, wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(
        "lightning_modules.backbones.diffusion.text_to_image.diffusers_pipeline", lambda *_: pytest.fail("loaded")
    )
    assert train.main([*map(str, command(wan, tmp_path, "run", *more))]) != 0
    assert message in capsys.readouterr().err


def test_missing_captions_are_rejected_before_the_pipeline_is_loaded(
    wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(tmp_path / "none", tmp_path, "run")
    for path in (tmp_path / "clips").glob("*.txt"):
        path.unlink()
    assert train.main([*map(str, given)]) != 0
    assert "Wan needs captions, but the data have none" in capsys.readouterr().err
