"""Mixtures of any speech with any noise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.arguments import positive, within
from datamodules.files.audio_files import as_int16, read_recording, recording_names
from datamodules.files.file_pairs import stem_of
from datamodules.speech.recordings import Recordings, SpeechSet, Split
from datamodules.speech.splits import of_split
from datamodules.speech.tones import at_snr


class Mixtures(SpeechSet):
    """Clean recordings of a folder with noise of another folder at a random level, each utterance with its own.

    Level and excerpt of the noise follow from (seed, index) alone. No recording or subfolder, as of a speaker, is in
    two splits: of both folders the last parts, in the order of their names, are validated and tested on. Utterances
    that are longer than their noise go through it again. Mean squares are those of whole utterances, as in the recipe
    of WSJ0-CHiME3, which mixes all splits with the same noises. `mixtures_<split>.csv` of the run says what each is
    made from.

    Args:
        speech_dir: folder of clean recordings, with any subfolders.
        noise_dir: folder of recordings of noise, with any subfolders; at least one for each split that is read.
        snr: least and greatest ratio of speech to noise, in decibels; uniform between them.
        held_out: part of the speech for validation, and as much for tests, of its subfolders and of recordings outside
            any; 0 gives all of the folder, whatever the split, for splits that have folders of their own.
        noise_held_out: part of the noise for validation, and as much for tests; None takes `held_out`.
        noise_files: pattern of the names of the recordings of noise, as `*.CH1.wav` for one microphone of several.
        rate: samples a second.
        resample: whether recordings of another rate are brought to this one; otherwise they are refused.
        mix_channels: whether several channels are averaged; otherwise they are refused.
        seed: random seed; None takes that of the DataModule.

    Raises:
        ValueError: if an argument is out of range; when read, if a split has no speech or no noise.
        FileNotFoundError: when read, if a folder does not exist or holds no recording.
    """

    def __init__(
        self,
        speech_dir: str,
        noise_dir: str,
        snr: Sequence[float] = (0.0, 20.0),
        held_out: float = 0.1,
        noise_held_out: float | None = None,
        noise_files: str = "*",
        rate: int = 16_000,
        resample: bool = False,
        mix_channels: bool = False,
        seed: int | None = None,
    ) -> None:
        positive(rate=rate)
        within(0, 0.5, "[)", held_out=held_out, noise_held_out=noise_held_out)
        if len(snr) != 2 or snr[0] > snr[1]:
            raise ValueError(f"snr must be the least and the greatest ratio in decibels, got {list(snr)}")
        self.speech_dir = Path(speech_dir).expanduser()
        self.noise_dir = Path(noise_dir).expanduser()
        self.snr = (float(snr[0]), float(snr[1]))
        self.held_out = held_out
        self.noise_held_out = held_out if noise_held_out is None else noise_held_out
        self.noise_files = noise_files
        self.rate = rate
        self.resample = resample
        self.mix_channels = mix_channels
        self.seed = seed

    def recordings(self, split: Split) -> Recordings:
        speech = of_split(recording_names(self.speech_dir, "speech_dir"), split, self.held_out, "speech_dir")
        noises = recording_names(self.noise_dir, "noise_dir", self.noise_files)
        noises = of_split(noises, split, self.noise_held_out, "noise_dir")
        sounds = [self._read(self.noise_dir / name) for name in noises]
        noisy, clean, rows = [], [], []
        for index, name in enumerate(speech):
            random = np.random.default_rng([self.seed or 0, ("training", "validation", "test").index(split), index])
            voice = self._read(self.speech_dir / name)
            chosen, level, place = random.integers(len(noises)), random.uniform(*self.snr), random.random()
            sound = sounds[chosen]
            room = len(sound) - len(voice)
            start = int(place * (room + 1 if room >= 0 else len(sound)))
            excerpt = np.take(sound, np.arange(start, start + len(voice)), mode="wrap")
            if not np.abs(excerpt).max() > 0:
                raise ValueError(
                    f"{self.noise_dir / noises[chosen]} is silent for {len(voice)} samples from {start} on"
                )
            mixture = voice + at_snr(voice, excerpt, level)
            loudest = max(1.0, float(np.abs(mixture).max()) / 0.999)  # both are made quieter where 16 bits overflow
            noisy.append(as_int16(mixture / loudest))
            clean.append(as_int16(voice / loudest))
            row = {"split": split, "speech": name, "noise": noises[chosen], "start": start, "snr": level}
            rows.append(row | {"divided_by": loudest})
        return Recordings([stem_of(name) for name in speech], noisy, clean, self.rate, pd.DataFrame(rows))

    def _read(self, path: Path) -> np.ndarray:
        return read_recording(path, self.rate, self.resample, self.mix_channels).astype(np.float64)
