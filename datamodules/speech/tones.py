"""Synthetic tones in coloured noise, and synthetic notes in rooms. Both can be used instead of speech."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from datamodules.arguments import ascending, at_least, positive
from datamodules.files.audio_files import as_int16
from datamodules.speech.recordings import Recordings, SpeechSet, Split

HARMONICS = 5


def at_snr(clean: NDArray, noise: NDArray, decibels: float) -> NDArray:
    """Scale noise so that the signal-to-noise ratio is `decibels`."""
    return noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2) * 10 ** (-decibels / 10))


class Tones(SpeechSet):
    """Dataset of tones (sums of five harmonics with a slow envelope) in coloured noise x_t = .9 x_{t-1} + e_t.

    The fundamental frequency is uniform between 80 and 200 hertz. The signal-to-noise ratio is uniform between 0 and 15
    decibels. The signals do not sound like speech.

    Args:
        samples: number of training recordings.
        test_samples: number of test recordings, and also of validation recordings.
        length: length of a recording, in audio samples.
        sample_rate: sample rate in Hz.
        seed: seed of the signals. None means the seed of the DataModule.
    """

    def __init__(
        self,
        samples: int = 2000,
        test_samples: int = 32,
        length: int = 496,
        sample_rate: int = 2000,
        seed: int | None = None,
    ) -> None:
        at_least(1, samples=samples, test_samples=test_samples, length=length)
        positive(sample_rate=sample_rate)
        self.samples = samples
        self.test_samples = test_samples
        self.length = length
        self.sample_rate = sample_rate
        self.seed = seed

    def recordings(self, split: Split) -> Recordings:
        count = self.samples if split == "training" else self.test_samples
        random = np.random.default_rng([self.seed or 0, ("training", "validation", "test").index(split)])
        time = np.arange(self.length) / self.sample_rate
        fundamental = random.uniform(80, 200, (count, 1, 1))
        order = np.arange(1, HARMONICS + 1)[:, None]
        phase = random.uniform(0, 2 * np.pi, (count, HARMONICS, 1))
        tone = (np.sin(2 * np.pi * fundamental * order * time + phase) / order).sum(axis=1)
        speed, start = random.uniform(1, 4, (count, 1)), random.uniform(0, 2 * np.pi, (count, 1))
        clean = tone * (0.55 + 0.45 * np.sin(2 * np.pi * speed * time + start))
        clean *= 0.3 / np.abs(clean).max(axis=1, keepdims=True)
        noise = lfilter([1.0], [1.0, -0.9], random.standard_normal((count, self.length + 100)))[:, 100:]
        decibels = random.uniform(0, 15, count)
        noisy = [one + at_snr(one, other, level) for one, other, level in zip(clean, noise, decibels, strict=True)]
        names = [f"tone_{number:04d}" for number in range(count)]
        return Recordings(
            names, [as_int16(each) for each in noisy], [as_int16(each) for each in clean], self.sample_rate
        )


QUIETEST, LOUDEST = 0.0, 8.0
"""Smallest and largest direct-to-reverberant ratio of notes, in decibels."""


def impulse_response(
    random: np.random.Generator, reverberation: float, ratio: float, length: int, sample_rate: float
) -> NDArray[np.float64]:
    """Sample a room's impulse response: a direct path of 1, followed by exponentially decaying Gaussian noise.

    Args:
        random: random number generator.
        reverberation: reverberation time, in seconds: the time in which the expected energy decays by 60 decibels.
        ratio: energy of the direct path divided by the energy of the noise, in decibels.
        length: number of audio samples.
        sample_rate: sample rate in Hz.
    """
    decay = 10 ** (-3 * np.arange(length) / (reverberation * sample_rate))
    tail = random.standard_normal(length) * decay
    tail[0] = 0
    tail *= 10 ** (-ratio / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return tail


class ReverberantNotes(SpeechSet):
    """Dataset of short notes and pauses, played in simulated rooms. The clean recording is the direct sound.

    A note lasts 30 to 60 milliseconds, and a pause lasts 20 to 50 milliseconds. A note has five harmonics of a
    fundamental frequency between 80 and 200 hertz, and decays by 10 decibels. The impulse response of a room consists
    of a direct path and decaying Gaussian noise (see `impulse_response`). The direct-to-reverberant ratio is uniform
    between 0 and 8 decibels. The signals do not sound like speech. To simulate rooms for speech recordings, use
    `Reverberant`.

    Args:
        samples: number of training recordings.
        test_samples: number of test recordings, and also of validation recordings.
        length: length of a recording, in audio samples.
        sample_rate: sample rate in Hz.
        reverberation: shortest and longest reverberation time, in seconds. The reverberation time of each room is
            sampled uniformly from this range.
        seed: seed of the signals. None means the seed of the DataModule.
    """

    def __init__(
        self,
        samples: int = 2000,
        test_samples: int = 32,
        length: int = 496,
        sample_rate: int = 2000,
        reverberation: tuple[float, float] = (0.1, 0.4),
        seed: int | None = None,
    ) -> None:
        at_least(1, samples=samples, test_samples=test_samples)
        at_least(2, length=length)
        positive(sample_rate=sample_rate)
        ascending(0, math.inf, "()", reverberation=reverberation)
        self.samples = samples
        self.test_samples = test_samples
        self.length = length
        self.sample_rate = sample_rate
        self.reverberation = reverberation
        self.seed = seed

    def recordings(self, split: Split) -> Recordings:
        count = self.samples if split == "training" else self.test_samples
        random = np.random.default_rng([self.seed or 0, ("training", "validation", "test").index(split)])
        dry, wet = [], []
        for _ in range(count):
            clean = self._notes(random)
            times = random.uniform(*self.reverberation), random.uniform(QUIETEST, LOUDEST)
            heard = fftconvolve(clean, impulse_response(random, *times, self.length, self.sample_rate))[: self.length]
            scale = 0.9 / np.abs(heard).max()
            dry.append(as_int16(scale * clean))
            wet.append(as_int16(scale * heard))
        return Recordings([f"notes_{number:04d}" for number in range(count)], wet, dry, self.sample_rate)

    def _notes(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Sample the direct sound of one recording."""
        signal, start = np.zeros(self.length), 0
        order = np.arange(1, HARMONICS + 1)[:, None]
        while start < self.length:
            end = start + max(1, round(random.uniform(0.03, 0.06) * self.sample_rate))
            time = np.arange(end - start) / self.sample_rate
            phase = random.uniform(0, 2 * np.pi, (HARMONICS, 1))
            tone = (np.sin(2 * np.pi * random.uniform(80, 200) * order * time + phase) / order).sum(axis=0)
            note = tone * 10 ** (-0.5 * np.arange(end - start) / (end - start))
            signal[start:end] = note[: self.length - start]
            start = end + round(random.uniform(0.02, 0.05) * self.sample_rate)
        return signal
