"""Clean recordings that are made reverberant by simulated rooms."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.arguments import ascending, positive, within
from datamodules.distributed.collectives import rank, world_size
from datamodules.file_pairs import stem_of
from datamodules.files.audio_files import (
    LOUDEST,
    as_int16,
    digest_in,
    read_recording,
    recording_names,
    write_recording,
)
from datamodules.speech.recordings import Recordings, SpeechSet, Split
from datamodules.speech.splits import of_split
from datamodules.speech.voice_bank_demand import FOLDERS

LEAST, GREATEST = (5.0, 5.0, 2.0), (15.0, 15.0, 6.0)
"""Smallest and largest side lengths of rooms (length, width and height), in metres."""
FROM_WALLS = 1.0
"""Smallest distance between speaker or microphone and a wall, in metres."""
ORDER = 3
"""Highest order of image sources. Later reflections are computed by ray tracing."""
ABSORPTION = 0.99
"""Fraction of energy that the walls absorb when the anechoic recording is simulated."""
SILENCE = 0.5
"""Seconds of silence after the anechoic recording. Most of the reverberation decays in this time."""
LEVEL = 0.9
"""Peak amplitude of a reverberant recording."""


def pyroomacoustics() -> Any:
    """Import and return pyroomacoustics, which simulates rooms."""
    try:
        import pyroomacoustics
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "rooms need the package pyroomacoustics: pip install 'noiseworks[rooms]'", name="pyroomacoustics"
        ) from None
    return pyroomacoustics


def drawn_room(random: np.random.Generator, reverberation: tuple[float, float]) -> dict[str, Any]:
    """Sample a room: reverberation time (seconds), side lengths, and positions of speaker and microphone (metres)."""
    sides = random.uniform(LEAST, GREATEST)
    source, microphone = random.uniform(FROM_WALLS, sides - FROM_WALLS, (2, 3))
    return {
        "reverberation": random.uniform(*reverberation),
        "sides": sides,
        "source": source,
        "microphone": microphone,
        "rays": [int(word) for word in random.integers(2**32, size=2)],
    }


def in_room(voice: NDArray[np.floating], sample_rate: int, room: Mapping[str, Any]) -> tuple[NDArray, NDArray]:
    """Simulate a voice `[samples]` in a room, once with and once without walls. Both results have the same length.

    Ray tracing uses the seed in `room`, so the results do not depend on earlier simulations.
    """
    library = pyroomacoustics()
    absorption, order = library.inverse_sabine(room["reverberation"], room["sides"])
    heard = []
    for energy, most in ((absorption, min(ORDER, order)), (ABSORPTION, 0)):
        library.random.seed(numpy=room["rays"], libroom=room["rays"][0])
        shoebox = library.ShoeBox(room["sides"], fs=sample_rate, materials=library.Material(energy), max_order=most)
        shoebox.set_ray_tracing()
        shoebox.add_microphone_array(np.asarray(room["microphone"])[:, None])
        shoebox.add_source(room["source"], signal=voice)
        shoebox.simulate()
        heard.append(shoebox.mic_array.signals[0])
    reverberant, anechoic = heard[0], np.pad(heard[1], (0, int(SILENCE * sample_rate)))
    length = min(len(reverberant), len(anechoic))
    scale = LEVEL / np.abs(reverberant).max()
    return scale * reverberant[:length], scale * anechoic[:length]


class Reverberant(SpeechSet):
    """Dataset that simulates each clean recording twice: in a random room, and without the walls of this room.

    Rooms have lengths and widths of 5 to 15 metres and heights of 2 to 6 metres. Speaker and microphone are at least
    one metre from the walls. The simulation uses image sources up to the third order, and ray tracing for later
    reflections. The room and the recording depend only on (seed, index). The anechoic recording includes the delay from
    speaker to microphone, and excludes reflections from walls. It ends with half a second of silence. The file
    `rooms_<split>.csv` in the run directory lists the parameters of each room. The simulation follows the recipe of
    WSJ0-REVERB with two differences. Reverberant recordings are scaled to a maximum absolute amplitude of .9, so that
    they can be stored with 16 bits. The microphone is at the sampled position, whereas the recipe moves it by 16
    centimetres.

    The simulation of a recording takes about a second. If `written_to` is set, recordings are simulated only once, and
    an interrupted simulation can be resumed. Each rank starts at a different recording, and skips recordings that are
    already simulated.

    Args:
        speech_dir: folder of clean recordings, including subfolders. All recordings of a subfolder are in the same
            split.
        reverberation: shortest and longest reverberation time (decay by 60 decibels), in seconds. The reverberation
            time of each room is sampled uniformly from this range.
        held_out: fraction of the subfolders, and of recordings outside subfolders, that is held out for validation. The
            same fraction is held out for testing. If it is 0, every split contains the whole folder.
        written_to: folder in which recordings are stored and from which `VoiceBankDemand(reverberant=True)` can read
            them. None means that the recordings are simulated in each run and not stored.
        sample_rate: sample rate in Hz.
        resample: whether to resample recordings that have a different sample rate. False rejects these recordings.
        mix_channels: whether to average multiple channels. False rejects recordings with multiple channels.
        seed: seed of the rooms. None means the seed of the DataModule.
    """

    def __init__(
        self,
        speech_dir: str,
        reverberation: Sequence[float] = (0.4, 1.0),
        held_out: float = 0.1,
        written_to: str | None = None,
        sample_rate: int = 16_000,
        resample: bool = False,
        mix_channels: bool = False,
        seed: int | None = None,
    ) -> None:
        positive(sample_rate=sample_rate)
        within(0, 0.5, "[)", held_out=held_out)
        ascending(0, math.inf, "()", reverberation=reverberation)
        self.speech_dir = Path(speech_dir).expanduser()
        self.reverberation = (float(reverberation[0]), float(reverberation[1]))
        self.held_out = held_out
        self.written_to = None if written_to is None else Path(written_to).expanduser()
        self.sample_rate = sample_rate
        self.resample = resample
        self.mix_channels = mix_channels
        self.seed = seed

    def recordings(self, split: Split) -> Recordings:
        pyroomacoustics()
        speech = of_split(recording_names(self.speech_dir, "speech_dir"), split, self.held_out, "speech_dir")
        begin = len(speech) * rank() // world_size()
        made = {index: self._make(split, index, speech[index]) for index in (*range(begin, len(speech)), *range(begin))}
        reverberant, anechoic, rows = zip(*(made[index] for index in range(len(speech))), strict=True)
        table = [{"split": split, "speech": name, **row} for name, row in zip(speech, rows, strict=True)]
        names = [stem_of(name) for name in speech]
        return Recordings(names, list(reverberant), list(anechoic), self.sample_rate, pd.DataFrame(table), "rooms")

    def _make(self, split: Split, index: int, name: str) -> tuple[NDArray, NDArray, dict[str, Any]]:
        """Simulate a reverberant and an anechoic recording, or read them if they are stored.

        Return the reverberant and the anechoic signal, both int16, and the row of the table `rooms_<split>.csv`.
        """
        number = ("training", "validation", "test").index(split)
        room = drawn_room(np.random.default_rng([self.seed or 0, number, index]), self.reverberation)
        row: dict[str, Any] = {"reverberation": room["reverberation"]}
        for key in ("sides", "source", "microphone"):
            row |= {f"{key}_{axis}": value for axis, value in zip("xyz", room[key], strict=True)}
        voice = read_recording(self.speech_dir / name, self.sample_rate, self.resample, self.mix_channels)
        if self.written_to is None:
            reverberant, anechoic = in_room(voice, self.sample_rate, room)
            return as_int16(reverberant), as_int16(anechoic), row
        identity = f"{sorted(room.items())} {self.sample_rate} {pyroomacoustics().__version__}"
        digest = hashlib.blake2b(identity.encode() + voice.tobytes(), digest_size=16).hexdigest()
        folder = self.written_to / FOLDERS[split]
        files = [folder / kind / f"{stem_of(name)}.wav" for kind in ("reverb", "anechoic")]
        if not all(file.is_file() and digest_in(file) == digest for file in files):
            for file, signal in zip(files, in_room(voice, self.sample_rate, room), strict=True):
                write_recording(file, as_int16(signal) / LOUDEST, self.sample_rate, digest)
        kept = [as_int16(read_recording(file, self.sample_rate)) for file in files]
        return kept[0], kept[1], row
