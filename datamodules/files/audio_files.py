"""Reading of audio files as mono signals with a required sample rate, and writing of audio files.

The functions require the `audio` extra.
"""

import struct
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.files.limits import check_is_file, check_unpacked
from datamodules.files.whole_files import DamagedFile, whole_file

SUFFIXES = (".wav", ".flac", ".ogg")
LOUDEST = 32_768
"""Stored 16-bit value that corresponds to an amplitude of 1."""


MOST_RESAMPLED = 1_000_000
"""Largest allowed term in the reduced ratio of two sample rates; the resampling filter has 20 times as many taps."""


class UnreadableRecording(ValueError):
    """Raised for a file that cannot be read as a recording with the requested properties.

    The message names the file.
    """


def soundfile() -> Any:
    """Import soundfile, which reads and writes audio files."""
    try:
        import soundfile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "audio files need the package soundfile: pip install 'noiseworks[audio]'", name="soundfile"
        ) from None
    return soundfile


def recording_names(folder: Path, what: str, pattern: str = "*") -> list[str]:
    """List the recordings of a folder and its subfolders, as sorted relative paths.

    Args:
        folder: folder to search.
        what: name of the argument or dataset that specifies the folder, for error messages.
        pattern: glob pattern of the file names.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{what}: {folder} is not a folder; expected a folder of recordings")
    found = [path for path in folder.rglob(pattern) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        named = "" if pattern == "*" else f" named {pattern}"
        raise FileNotFoundError(
            f"{what}: {folder} has no recording{named}; expected files that end with {', '.join(SUFFIXES)}"
        )
    return sorted(path.relative_to(folder).as_posix() for path in found)


def read_recording(
    path: Path, sample_rate: int, resample: bool = False, mix_channels: bool = False
) -> NDArray[np.float32]:
    """Read a recording as a mono signal, `[samples]`, with values in [-1, 1].

    Args:
        path: audio file.
        sample_rate: required sample rate in Hz.
        resample: whether to resample recordings with a different sample rate. If false, such recordings raise an error.
        mix_channels: whether to average multiple channels. If false, multiple channels raise an error.
    """
    library = soundfile()
    try:
        check_is_file(path)
        with library.SoundFile(path) as file:
            check_unpacked(path, file.frames * file.channels * 4)
            signal, own_rate = file.read(dtype="float32", always_2d=True), file.samplerate
        if own_rate < 1:
            raise ValueError(f"its sample rate is {own_rate}, but must be positive")
    except Exception as error:  # raised by the library, or for lack of memory
        raise UnreadableRecording(f"{path} cannot be read: {error}") from None
    if signal.shape[1] > 1 and not mix_channels:
        raise UnreadableRecording(f"{path} has {signal.shape[1]} channels; set mix_channels to average them")
    if own_rate != sample_rate and not resample:
        raise UnreadableRecording(
            f"{path} has sample rate {own_rate}, expected {sample_rate}; set resample to resample it"
        )
    mono = signal.mean(axis=1)
    if own_rate != sample_rate:
        from scipy.signal import resample_poly

        up, down = sample_rate // gcd(sample_rate, own_rate), own_rate // gcd(sample_rate, own_rate)
        if max(up, down) > MOST_RESAMPLED:
            raise UnreadableRecording(f"{path} has sample rate {own_rate}, which cannot be resampled to {sample_rate}")
        mono = resample_poly(mono, up, down).astype(np.float32)
    if not (finite := np.isfinite(mono)).all():
        place = int(finite.argmin())
        raise UnreadableRecording(f"{path} has the value {mono[place]} at sample {place}; write only finite values")
    if not np.abs(mono).max(initial=0) > 0:
        raise UnreadableRecording(f"{path} is silent, so it cannot be normalised by its level")
    return mono


def as_int16(signal: NDArray[np.floating]) -> NDArray[np.int16]:
    """Quantise a signal in [-1, 1] to 16 bits."""
    return np.clip(np.round(signal * LOUDEST), -LOUDEST, LOUDEST - 1).astype(np.int16)


def write_recording(path: Path, signal: Any, sample_rate: int, digest: str) -> None:
    """Write a signal in [-1, 1] to a 16-bit audio file.

    The comment field of the file contains a digest of the inputs from which the signal was computed.
    """
    library = soundfile()
    with whole_file(path) as partial, library.SoundFile(partial, "w", samplerate=sample_rate, channels=1) as file:
        file.comment = digest
        file.write(signal)


def digest_in(path: Path) -> str | None:
    """Read the digest from the comment field of a recording. Return None if there is no digest.

    Raises:
        DamagedFile: if the file cannot be read, or if its length differs from the length in its header.
    """
    library = soundfile()
    try:
        with path.open("rb") as content:
            kind, length = struct.unpack("<4sI", content.read(8))
        with library.SoundFile(path) as file:
            digest = file.comment or None
    except (library.LibsndfileError, OSError, struct.error) as error:
        raise DamagedFile(f"{path} is not a whole recording ({type(error).__name__})") from error
    if kind == b"RIFF" and length + 8 != path.stat().st_size:
        raise DamagedFile(f"{path} is not a whole recording")
    return digest
