"""Synthetic tones in coloured noise, as a substitute for speech."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from datamodules.arguments import at_least, positive
from datamodules.files.audio_files import as_int16
from datamodules.speech.recordings import Recordings, SpeechSet, Split

HARMONICS = 5


def at_snr(clean: NDArray, noise: NDArray, decibels: float) -> NDArray:
    """Scale noise to the signal-to-noise ratio `decibels`."""
    return noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2) * 10 ** (-decibels / 10))


class Tones(SpeechSet):
    """Sums of five harmonics with a slow envelope, and added coloured noise x_t = .9 x_{t-1} + e_t.

    The fundamental frequency is uniform between 80 and 200 hertz. The signal-to-noise ratio is uniform between 0 and 15
    decibels. The signals do not sound like speech.

    Args:
        samples: number of training recordings.
        test_samples: number of test recordings. There are as many validation recordings.
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
