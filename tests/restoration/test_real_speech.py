"""Recorded speech of unknown speakers, enhanced by networks trained for an hour on other voices and noise."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import resample_poly

import train
from tests.command import ROOT

MINUTES = 120
"""Of one core, for both trainings and tests."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with speech"),
]


def gathered_voices(speech: Path, folder: Path) -> None:
    """Write the reader's recordings, the same at three quarters of the speed, and four copies of VoiceBank's."""
    folder.mkdir()
    for file in (speech / "asterisk_en").glob("*.flac"):
        voice, rate = soundfile.read(file)
        soundfile.write(folder / f"{file.stem}.wav", voice, rate)
        soundfile.write(folder / f"slow_{file.stem}.wav", resample_poly(voice, 4, 3).clip(-1, 1), rate)
    for file in (speech / "voicebank_demand" / "train" / "clean").glob("*.wav"):
        for copy in "abcd":
            soundfile.write(folder / f"{file.stem}_{copy}.wav", *soundfile.read(file))


def gathered_noise(speech: Path, folder: Path) -> None:
    """Write the recordings of noise, and what VoiceBank's training recordings have over their clean ones."""
    folder.mkdir()
    for file in (speech / "noise").glob("*.wav"):
        soundfile.write(folder / file.name, *soundfile.read(file))
    for file in (speech / "voicebank_demand" / "train" / "clean").glob("*.wav"):
        (noisy, rate), (clean, _) = (soundfile.read(path) for path in (file.parents[1] / "noisy" / file.name, file))
        soundfile.write(folder / f"demand_{file.name}", noisy - clean, rate)
