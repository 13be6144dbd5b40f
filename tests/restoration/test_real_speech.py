"""Recorded speech of unknown speakers, enhanced by networks trained for an hour on other voices and noise."""

import json
import os
import time
from pathlib import Path

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


def test_an_hour_of_training_takes_noise_off_voices_that_it_never_heard(tmp_path: Path) -> None:
    speech = Path(os.environ["NOISEWORKS_DATA"], "speech")
    voices, noise = tmp_path / "voices", tmp_path / "noise"
    gathered_voices(speech, voices)
    gathered_noise(speech, noise)
    mixtures = {"speech_dir": str(speech / "librivox"), "noise_dir": str(noise), "held_out": 0, "noise_held_out": 0.02}
    sets = {
        "voicebank": {
            "class_path": "datamodules.speech.voice_bank_demand.VoiceBankDemand",
            "init_args": {"data_dir": str(speech / "voicebank_demand")},
        },
        "librivox": {"class_path": "datamodules.speech.mixtures.Mixtures", "init_args": mixtures},
    }
    start, found = time.process_time(), {}
    for config in ("small_speech", "small_speech_regressor"):
        out = tmp_path / config
        line = ["fit", "--config", ROOT / "configs" / "sgmse" / f"{config}.yaml", "--test_after_fit", "true"]
        line += ["--data.training.speech_dir", voices, "--data.training.noise_dir", noise]
        line += ["--data.test", json.dumps(sets), "--run_directory", out, "--trainer.enable_progress_bar", "false"]
        assert train.main([str(word) for word in line]) == 0
        table = pd.read_csv(out / "speech_quality_summary.csv")
        found[config] = table.pivot(index=["set", "band"], columns="measure", values="mean")
        print(config, found[config].to_string())
    assert time.process_time() - start < 60 * MINUTES
