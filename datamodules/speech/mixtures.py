"""Mixtures of the user's speech recordings and noise recordings."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.arguments import ascending, positive, within
from datamodules.file_pairs import stem_of
from datamodules.files.audio_files import as_int16, read_recording, recording_names
from datamodules.speech.recordings import Recordings, SpeechSet, Split
from datamodules.speech.splits import of_split
from datamodules.speech.tones import at_snr


class Mixtures(SpeechSet):
    """Dataset of clean recordings, each of which is mixed once with noise at a random signal-to-noise ratio.

    The noise excerpt of a mixture and its signal-to-noise ratio depend only on (seed, index). Each recording is in only
    one split. All recordings of a subfolder, for example of one speaker, are in the same split. In both folders,
    recordings and subfolders are sorted by name, and the last ones are used for validation and testing. Noise that is
    shorter than an utterance is looped. The signal-to-noise ratio is computed over whole utterances, as in the recipe
    of WSJ0-CHiME3. That recipe uses the same noise recordings in all splits, whereas this dataset uses different noise
    recordings in each split. The file `mixtures_<split>.csv` in the run directory lists the sources of each mixture.

    Args:
        speech_dir: folder of clean recordings, including subfolders.
        noise_dir: folder of noise recordings, including subfolders. Each split that is used needs at least one noise
            recording.
        snr: lowest and highest signal-to-noise ratio, in decibels. The ratio of each mixture is sampled uniformly from
            this range.
        held_out: fraction of the speech that is held out for validation. The same fraction is held out for testing. A
            subfolder counts as one item, and so does each recording outside subfolders. If it is 0, every split
            contains the whole folder. Use 0 if each split has a separate folder.
        noise_held_out: fraction of the noise that is held out for validation. The same fraction is held out for
            testing. None means `held_out`.
        noise_files: pattern that the file names of noise recordings must match, such as `*.CH1.wav` to select one of
            several microphones.
        sample_rate: sample rate in Hz.
        resample: whether to resample recordings that have a different sample rate. False rejects these recordings.
        mix_channels: whether to average multiple channels. False rejects recordings with multiple channels.
        seed: seed of the mixtures. None means the seed of the DataModule.
    """

    def __init__(
        self,
        speech_dir: str,
        noise_dir: str,
        snr: Sequence[float] = (0.0, 20.0),
        held_out: float = 0.1,
        noise_held_out: float | None = None,
        noise_files: str = "*",
        sample_rate: int = 16_000,
        resample: bool = False,
        mix_channels: bool = False,
        seed: int | None = None,
    ) -> None:
        positive(sample_rate=sample_rate)
        within(0, 0.5, "[)", held_out=held_out, noise_held_out=noise_held_out)
        ascending(-math.inf, snr=snr)
        self.speech_dir = Path(speech_dir).expanduser()
        self.noise_dir = Path(noise_dir).expanduser()
        self.snr = (float(snr[0]), float(snr[1]))
        self.held_out = held_out
        self.noise_held_out = held_out if noise_held_out is None else noise_held_out
        self.noise_files = noise_files
        self.sample_rate = sample_rate
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
            loudest = max(1.0, float(np.abs(mixture).max()) / 0.999)  # avoids overflow in 16 bits
            noisy.append(as_int16(mixture / loudest))
            clean.append(as_int16(voice / loudest))
            row = {"split": split, "speech": name, "noise": noises[chosen], "start": start, "snr": level}
            rows.append(row | {"divided_by": loudest})
        return Recordings([stem_of(name) for name in speech], noisy, clean, self.sample_rate, pd.DataFrame(rows))

    def _read(self, path: Path) -> np.ndarray:
        return read_recording(path, self.sample_rate, self.resample, self.mix_channels).astype(np.float64)
