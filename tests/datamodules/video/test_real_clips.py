"""Real videos: noise is extracted from one, one is degraded by the whole chain, and one is degraded already."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules.files.video_files import decode_frames
from datamodules.loading.global_batches import Request
from datamodules.video.clip_pairs import ClipPairs
from datamodules.video.clips import ArrayFrames, WindowSampling
from datamodules.video.folder_sets import FrameFolders, VideoFrames
from datamodules.video.noise_library import NoiseLibrary
from datamodules.video.noise_windows import WindowTest, noise_windows, write_windows
from tests.command import ROOT

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA"),
]
VIDEO = Path(os.environ.get("NOISEWORKS_DATA", "."), "video")


def chain() -> Any:
    """Build the degradation of the configuration for REDS."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(ClipPairs, "data")
    config = yaml.safe_load((ROOT / "configs" / "negvsr" / "reds.yaml").read_text())
    given = {"degradation": config["data"]["init_args"]["degradation"]}
    return parser.instantiate(parser.parse_object({"data": given})).data.degradation


def test_bikes_gives_noise_sequences(tmp_path: Path) -> None:
    clip = VideoFrames(VIDEO / "clips" / "bikes.mp4")
    assert clip.shape == (250, 3, 272, 640)
    found = noise_windows(clip, WindowTest(), count=30)
    assert found == noise_windows(ArrayFrames(clip.read(0, 30)), WindowTest())
    assert len(found) == 11  # equal to the published loop in number and content
    first = ArrayFrames(clip.read(0, 30))
    assert len(list(write_windows("bikes", first, tmp_path, WindowTest(), 30))) == 11
    source = NoiseLibrary(str(tmp_path))
    source.check((30, 3, 64, 64), "data.noise")
    noise = source.draw(np.zeros((30, 3, 64, 64), dtype=np.uint8), np.random.default_rng(0))
    assert noise.std(axis=(2, 3)).max() < 12


def test_carphone_is_degraded_by_the_chain_of_reds(tmp_path: Path) -> None:
    clips = FrameFolders(str(VIDEO / "clips"), names=["carphone_pristine"])
    data = ClipPairs(
        clips, clips, degradation=chain(), batch_size=1, windows=WindowSampling(num_frames=15, mirrored=True, size=128)
    )
    data.setup("fit")
    windows: Any = data.train_set
    one, again, later = (windows[Request(torch.tensor([0]), epoch, 1)] for epoch in (0, 0, 1))
    assert one["noisy"].shape == (1, 30, 3, 32, 32)
    assert torch.equal(one["noisy"], again["noisy"])
    assert not torch.equal(one["noisy"], later["noisy"])
    small = one["clean"].float().unflatten(4, (32, 4)).unflatten(3, (32, 4)).mean(dim=(4, 6))
    error = (one["noisy"].float() - small).square().mean().sqrt()
    assert 3 < error < 60


def test_videolq_is_read(tmp_path: Path) -> None:
    clips = FrameFolders(noisy_dir=str(VIDEO), names=["videolq_000"]).clips("test")
    [clip] = clips.stored
    assert (clip.shape, clips.clean) == ((8, 3, 360, 640), None)
    data = ClipPairs(predict_dir=str(VIDEO / "videolq_000"), evaluation_frames=4)
    data.setup("predict")
    assert [data.predict_set[Request(torch.tensor([row]), 0, 1)]["first"] for row in range(2)] == [[0], [4]]


def test_a_later_frame_is_the_one_that_comes_in_order() -> None:
    path = VIDEO / "clips" / "bikes.mp4"
    clip = VideoFrames(path)
    whole = decode_frames(path, "bikes", count=140).transpose(0, 3, 1, 2)
    for first in (1, 37, 124):
        np.testing.assert_array_equal(clip.read(first, 3), whole[first : first + 3])
