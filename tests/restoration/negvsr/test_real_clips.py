"""Noise is extracted from a real video, and makes negatives; a network enlarges real clips by 4 after minutes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from numpy.typing import NDArray
from PIL import Image

import train
from datamodules.corruptions.clip_degradation import Chain, RandomJpeg, RandomNoise, ResizeToEnd
from datamodules.loading import Loading
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.clips import WindowSampling
from datamodules.video.folder_sets import FrameFolders, open_clip
from datamodules.video.noise_library import NoiseLibrary
from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.spynet import ZeroFlow
from lightning_modules.optim.schedules import CosineOverSteps
from lightning_modules.restoration.negvsr import Negatives, NegVSR
from tests.trainers import quiet

STEPS = 300
"""Training steps, which take about two minutes on one core."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with video"),
]


def written(frames: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame.transpose(1, 2, 0)).save(folder / f"{number:08d}.png")


def two_libraries(video: Path, folder: Path) -> list[str]:
    """Extract noise sequences from a video; every other sequence is for training, and the rest is for testing."""
    (folder / "videos").mkdir()
    (folder / "videos" / video.name).symlink_to(video)
    assert train.main(["noise_library", str(folder / "videos"), str(folder / "all"), "--frames", "30"]) == 0
    sequences = sorted(path for path in (folder / "all").iterdir() if path.is_dir())
    assert len(sequences) >= 4
    libraries = [folder / "training", folder / "test"]
    for library in libraries:
        library.mkdir()
    for number, sequence in enumerate(sequences):
        (libraries[number % 2] / sequence.name).symlink_to(sequence)
    return [str(library) for library in libraries]


def test_noise_of_a_video_makes_negatives_and_real_clips_are_enlarged(tmp_path: Path) -> None:
    video = Path(os.environ["NOISEWORKS_DATA"], "video")
    known, unknown = two_libraries(video / "clips" / "bikes.mp4", tmp_path)
    frames = open_clip(video / "clips" / "carphone_pristine.mp4", 3).read(0, 120)
    written(frames[:90], tmp_path / "trained" / "carphone")
    for part in range(5):  # the last second, in clips of six frames
        written(frames[90 + 6 * part : 96 + 6 * part], tmp_path / "held_out" / f"carphone_{part}")
    real = open_clip(video / "videolq_000", 3).read(0, 8)
    written(real[:, :, 90:186, 160:320], tmp_path / "real" / "videolq_000")
    chain = Chain([ResizeToEnd(["area"]), RandomNoise(sigma=(1, 10), poisson=0.0), RandomJpeg((60, 95))], scale=4)
    seed_everything(0)
    options: Any = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=2e-3, betas=(0.9, 0.99)),
        "lr_scheduler": lambda optimizer: CosineOverSteps(optimizer, STEPS),
    }
    network = RealBasicVSR(ZeroFlow(), width=16, num_blocks=2, num_cleaning_blocks=1)
    module = NegVSR(network, Negatives(), sharpened=False, average_decay=0.98, **options)
    data = ClipPairs(
        FrameFolders(str(tmp_path / "trained")),
        FrameFolders(str(tmp_path / "held_out")),
        degradation=chain,
        noise=NoiseLibrary(known, match_mean=True),
        test_noise=NoiseLibrary(unknown, match_mean=True),
        batch_size=1,
        windows=WindowSampling(num_frames=4, size=128, per_clip=STEPS),
        loading=Loading(num_workers=0, seed=0),
    )
    trainer = quiet(max_steps=STEPS, max_epochs=-1, default_root_dir=tmp_path / "run")
    trainer.fit(module, data)
    [found] = trainer.test(module, data, verbose=False)
    trainer.predict(module, ClipPairs(predict_dir=str(tmp_path / "real"), loading=Loading(num_workers=0)))
    images = sorted((tmp_path / "run" / "restored" / "videolq_000").glob("*.png"))
    assert [image.name for image in images] == [f"{number:08d}.png" for number in range(8)]
    pixels = np.stack([np.asarray(Image.open(image)) for image in images]).astype(float)
    assert pixels.shape == (8, 384, 640, 3)
    small = pixels.reshape(8, 96, 4, 160, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(small - real[:, :, 90:186, 160:320]).mean() < 8  # it still shows the same clip
    # After so few steps, the PSNR is .7 dB below that of bicubic interpolation, but the structure is better.
    assert found["test/psnr"] > found["test/noisy_psnr"] - 1.5
    assert found["test/ssim"] > found["test/noisy_ssim"]
    assert 0 < found["test/drift"] < 0.03
