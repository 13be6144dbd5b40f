"""Video files, read and written by PyAV, the extra `video`."""

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.files.limits import check_is_file

SAME_EVERYWHERE = {"libx264": {"x264-params": "cpu-independent=1"}}
"""Options of encoders whose bits would otherwise depend on what lies beside their frames in memory."""
SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
"""Ends of the names of video files, in any case."""


class UnreadableVideo(ValueError):
    """A file that holds no video, or is damaged; the message names it."""


class VideoFacts(NamedTuple):
    """Say of a video what is known before its frames are decoded."""

    height: int
    width: int
    rate: float
    """Frames a second."""
    times: tuple[int, ...]
    """When each frame is shown, in the file's own units, by which it is found again."""


def pyav() -> Any:
    """Import the package that reads and writes videos.

    Raises:
        ModuleNotFoundError: says how to get it.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError("videos need the package av: pip install 'noiseworks[video]'", name="av") from None
    return av


def require_encoder(codec: str) -> str:
    """Give the encoder's own name of a codec.

    Raises:
        ValueError: names the codec.
    """
    av = pyav()
    try:
        return av.codec.Codec(codec, "w").name
    except (ValueError, LookupError):
        raise ValueError(f"the codec {codec} is none that this PyAV {av.__version__} can write") from None


def facts_of(path: Path) -> VideoFacts:
    """Read the size, the rate and the times of the frames of a video, without decoding it.

    Raises:
        UnreadableVideo: names the file.
    """
    av = pyav()
    try:
        check_is_file(path)
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UnreadableVideo(f"{path} holds no video")
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            facts = VideoFacts(stream.height, stream.width, rate, tuple(times))
    except UnreadableVideo:
        raise
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise UnreadableVideo(f"{path} cannot be read as a video ({error}); replace or remove it") from error
    if not facts.times:
        raise UnreadableVideo(f"{path} holds no frame")
    return facts


def decoded(
    file: Any, name: str, start: int | None = None, count: int | None = None, grey: bool = False
) -> NDArray[np.uint8]:
    """Decode consecutive frames of a video, `[T, H, W, C]`.

    Args:
        file: a path, or a file that is open for reading.
        name: of the file, for messages.
        start: the time of the first frame, of `facts_of`; None begins at the beginning.
        count: frames, fewer where the video ends before; None takes all.
        grey: whether frames have one channel, their brightness, in place of red, green and blue.

    Raises:
        UnreadableVideo: names the file.
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
    except Exception as error:  # decoders raise almost anything for a damaged file
        raise UnreadableVideo(f"{name} cannot be read as a video ({error}); replace or remove it") from error
    if not frames:
        raise UnreadableVideo(f"{name} has no frame that can be decoded")
    read = np.stack(frames)
    return read[..., None] if grey else read


def encoded(
    file: Any,
    frames: Any,
    rate: float,
    codec: str = "libx264",
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Encode frames as an MP4, with colours in half resolution (`yuv420p`).

    Args:
        file: a path, or a file that is open for writing.
        frames: arrays `[H, W, 3]`, uint8, all of one size, with even sides.
        rate: frames a second.
        codec: name of the encoder.
        bit_rate: bits a second; None leaves that to the codec.
        options: of the encoder, as FFmpeg names them.

    Raises:
        ValueError: if this PyAV lacks the codec, or sides are odd.
    """
    options = {**SAME_EVERYWHERE.get(require_encoder(codec), {}), **(options or {})}
    av, stream = pyav(), None
    with av.open(str(file) if isinstance(file, Path) else file, "w", format="mp4") as container:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise ValueError(f"the codec {codec} takes frames of even sides, got {height} x {width}")
                stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
                stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
                stream.codec_context.thread_count = 1  # the same bits on any machine
                if bit_rate is not None:
                    stream.bit_rate = bit_rate
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())
