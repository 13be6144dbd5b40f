"""JPEG and codecs: decoded results, and rejections."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.corruptions.clip_degradation.compression import RandomCodec, RandomJpeg, as_jpeg, quantise_clip
from datamodules.corruptions.clip_degradation.noise import RandomNoise
from datamodules.video.moving_photographs import MovingPhotographs

END = (16, 16)


def clip(colour: bool = True, size: int = 48) -> torch.Tensor:
    photographs = MovingPhotographs(1, 1, num_frames=6, image_size=size, colour=colour)
    return torch.from_numpy(photographs.clips("test").stored[0].read(0, 6)).float() / 255


@pytest.mark.parametrize("colour", [True, False])
def test_jpeg_is_that_of_pillow_with_a_quality_that_walks(colour: bool) -> None:
    given = clip(colour)
    read = RandomJpeg((20, 90), step=30).apply(given, np.random.default_rng(1), END)
    assert (read.shape, read.dtype) == (given.shape, torch.float32)
    errors = (read - given).square().mean(dim=(1, 2, 3))
    assert errors.max() > 1.5 * errors.min()
    levels = (given[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    memory = io.BytesIO()
    Image.fromarray(levels if colour else levels[..., 0]).save(memory, "JPEG", quality=50)
    assert np.array_equal(as_jpeg(levels, 50), np.asarray(Image.open(memory)).reshape(levels.shape))


@pytest.mark.parametrize("codec", ["libx264", "h264", "mpeg4"])
def test_codecs_give_as_many_frames_back_and_lose_more_at_fewer_bits(codec: str) -> None:
    given = clip()
    errors = []
    for rate in (3_000, 300_000):
        read = RandomCodec([codec], (rate, rate)).apply(given, np.random.default_rng(0), END)
        assert (read.shape, read.dtype) == (given.shape, torch.float32)
        errors.append(float((read - given).square().mean()))
    # FFmpeg's mpeg4 may deviate from its target rate by four million bits, which exceeds the size of such a short clip.
    assert errors[1] == errors[0] if codec == "mpeg4" else errors[1] < 0.7 * errors[0]
    assert 0 < errors[1] < 0.01
    again = RandomCodec([codec], (rate, rate)).apply(given, np.random.default_rng(0), END)
    assert torch.equal(read, again)
    grey = RandomCodec([codec], (rate, rate)).apply(clip(colour=False), np.random.default_rng(0), END)
    assert grey.shape[1] == 1


def test_a_codec_gives_the_same_whatever_lies_in_memory() -> None:
    still = MovingPhotographs(1, 1, num_frames=15, image_size=76, photograph_size=300, colour=True).clips("test")
    given = torch.from_numpy(still.stored[0].read(0, 15)).float() / 255
    given = RandomNoise(sigma=(5, 5), poisson=0).apply(torch.cat([given, given.flip(0)]), np.random.default_rng(0), END)
    compressed, read = RandomCodec(["libx264"], (30_000, 30_000)), []
    for size in range(4):  # blocks of other sizes are allocated and freed, as in a loader
        read.append(compressed.apply(given, np.random.default_rng(0), END))
        torch.fft.rfft2(torch.rand(30, 3, 200 + size * 11, 200))
        blocks = [np.full(3000 * count + 17 * size, 41 * size, dtype=np.uint8) for count in range(40)]
        del blocks
    assert all(torch.equal(each, read[0]) for each in read[1:])


def test_levels_are_rounded_to_the_nearest() -> None:
    clip = torch.tensor([0.4, 0.6, 254.6, 300.0]).view(4, 1, 1, 1) / 255
    assert quantise_clip(clip).ravel().tolist() == [0, 1, 255, 255]
