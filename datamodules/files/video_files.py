"""Reading and writing of video files with PyAV, which the `video` extra installs."""

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.files.limits import check_is_file

SAME_EVERYWHERE = {"libx264": {"x264-params": "cpu-independent=1"}}
"""Encoder options that make the output independent of the CPU and of memory layout."""
SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
"""Suffixes of video files. The suffix of a file may have upper-case letters."""


class UnreadableVideo(ValueError):
    """Raised for a file that is damaged or not a video.

    The message names the file.
    """


class VideoFacts(NamedTuple):
    """Properties of a video that are known without decoding frames."""

    height: int
    width: int
    rate: float
    """Frames per second."""
    times: tuple[int, ...]
    """Presentation time of each frame, in the time units of the file. These times are needed for seeking."""


def pyav() -> Any:
    """Import PyAV, which reads and writes videos."""
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError("videos need the package av: pip install 'noiseworks[video]'", name="av") from None
    return av


def require_encoder(codec: str) -> str:
    """Return the name of the encoder of a codec."""
    av = pyav()
    try:
        return av.codec.Codec(codec, "w").name
    except (ValueError, LookupError):
        raise ValueError(f"the installed PyAV {av.__version__} cannot encode with the codec {codec}") from None


def facts_of(path: Path) -> VideoFacts:
    """Read the size, the frame rate and the frame times of a video without decoding it."""
    av = pyav()
    try:
        check_is_file(path)
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo(f"{path} has no video")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            facts = VideoFacts(stream.height, stream.width, rate, tuple(times))
    except UnreadableVideo:
        raise
    except Exception as error:  # decoders may raise almost any exception type for a damaged file
        raise UnreadableVideo(f"{path} cannot be read as a video ({error}); replace or remove it") from error
    if not facts.times:
        raise UnreadableVideo(f"{path} has no frame")
    return facts


def decode_frames(
    file: Any, name: str, start: int | None = None, count: int | None = None, grey: bool = False
) -> NDArray[np.uint8]:
    """Decode consecutive frames of a video, `[T, H, W, C]`.

    Args:
        file: path, or file object open for reading.
        name: name of the video, for error messages.
        start: presentation time of the first frame to decode, from `VideoFacts.times`. None means the first frame.
        count: maximum number of frames to decode. None means all frames.
        grey: whether to return one luma channel instead of red, green and blue.
    """
    av, frames = pyav(), []
    try:
        with av.open(str(file) if isinstance(file, Path) else file) as container:
            stream = container.streams.video[0]
            if start is not None:
                container.seek(start, stream=stream)
            for frame in container.decode(stream):
                if start is None or frame.pts >= start:
                    frames.append(frame.to_ndarray(format="gray" if grey else "rgb24"))
                if count is not None and len(frames) == count:
                    break
    except Exception as error:  # decoders may raise almost any exception type for a damaged file
        raise UnreadableVideo(f"{name} cannot be read as a video ({error}); replace or remove it") from error
    if not frames:
        raise UnreadableVideo(f"{name} has no frame that can be decoded")
    read = np.stack(frames)
    return read[..., None] if grey else read


def encode_frames(
    file: Any,
    frames: Any,
    rate: float,
    codec: str = "libx264",
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames as an MP4 video, with chroma subsampling (`yuv420p`).

    Args:
        file: path, or file object open for writing.
        frames: arrays `[H, W, 3]`, uint8, all of the same size, with even height and width.
        rate: frames per second.
        codec: name of the encoder.
        bit_rate: bit rate in bits per second. None means the default of the codec.
        options: FFmpeg options of the encoder.
    """
    options = {**SAME_EVERYWHERE.get(require_encoder(codec), {}), **(options or {})}
    av, stream = pyav(), None
    with av.open(str(file) if isinstance(file, Path) else file, "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise ValueError(f"the codec {codec} needs frames of even height and width, got {height} x {width}")
                stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.codec_context.thread_count = 1  # makes the output identical on all machines
                if bit_rate is not None:
                    stream.bit_rate = bit_rate
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())
