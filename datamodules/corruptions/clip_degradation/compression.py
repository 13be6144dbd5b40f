"""In-memory compression of clips: each frame as a JPEG image, or the whole clip as a video.

Both operators run on the CPU, in the DataLoader workers. Values are clipped and quantised before compression. Here, the
JPEG encoder receives the channels in RGB order; in the published code, it receives them in BGR order.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.arguments import ascending, at_least
from datamodules.corruptions.clip_degradation.interface import ClipOperator, walk
from datamodules.files.video_files import decode_frames, encode_frames, require_encoder


class RandomJpeg(ClipOperator):
    """Compress each frame as a JPEG. The quality follows a random walk over the frames.

    Args:
        quality: lowest and highest quality, between 1 and 100.
        step: largest change of the quality per frame.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95), step: float = 3.0) -> None:
        ascending(1, 100, quality=quality)
        at_least(0, step=step)
        self.quality = quality
        self.step = step

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        qualities = walk(random, self.quality, self.step, len(clip)).round().astype(int)
        frames = [as_jpeg(frame, int(quality)) for frame, quality in zip(quantise_clip(clip), qualities, strict=True)]
        return as_clip(np.stack(frames), clip)


def as_jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress a frame `[H, W, C]` and decode it again."""
    memory = io.BytesIO()
    Image.fromarray(frame if frame.shape[2] == 3 else frame[..., 0]).save(memory, "JPEG", quality=quality)
    return np.asarray(Image.open(memory)).reshape(frame.shape)


class RandomCodec(ClipOperator):
    """Compress a clip as a video with one frame per second, a random codec and a random bit rate.

    This operator requires the `video` extra. The height and width of frames must be even. The bit rate has no effect on
    short clips with FFmpeg's mpeg4 encoder: this encoder may exceed the bit rate by four million bits, which is more
    than a short clip contains.

    Args:
        codecs: names of FFmpeg encoders. One encoder is sampled per clip.
        bit_rate: lowest and highest bit rate, in bits per second.
    """

    def __init__(
        self,
        codecs: Sequence[str] = ("libx264", "h264", "mpeg4"),
        bit_rate: tuple[int, int] = (10_000, 100_000),
    ) -> None:
        for codec in codecs:
            require_encoder(codec)
        ascending(1, bit_rate=bit_rate)
        self.codecs = list(codecs)
        self.bit_rate = bit_rate

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        codec = self.codecs[random.integers(len(self.codecs))]
        rate = int(random.integers(self.bit_rate[0], self.bit_rate[1] + 1))
        frames = quantise_clip(clip)
        memory = io.BytesIO()
        encode_frames(memory, frames if frames.shape[3] == 3 else frames.repeat(3, axis=3), 1, codec, bit_rate=rate)
        memory.seek(0)
        read = decode_frames(memory, "a clip in memory")
        if len(read) != len(frames):
            raise RuntimeError(f"{codec} returned {len(read)} of {len(frames)} frames")
        return as_clip(read if frames.shape[3] == 3 else read.mean(axis=3, keepdims=True), clip)


def quantise_clip(clip: Tensor) -> NDArray[np.uint8]:
    """Quantise a clip `[T, C, H, W]` to 8-bit levels `[T, H, W, C]`."""
    return clip.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def as_clip(levels: NDArray, like: Tensor) -> Tensor:
    """Convert levels `[T, H, W, C]` to a clip `[T, C, H, W]` with the dtype and device of `like`."""
    return torch.from_numpy(levels).to(like).div_(255).permute(0, 3, 1, 2).contiguous()
