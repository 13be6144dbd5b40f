"""Recorded speech of unknown speakers, enhanced by networks trained for minutes on other speakers and noise."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import train
from tests.command import ROOT

MINUTES = 20
"""Of one core, for both trainings and tests."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("NOISEWORKS_DATA" not in os.environ, reason="needs NOISEWORKS_DATA with speech"),
]


def gathered_noise(speech: Path, folder: Path) -> None:
    """Write the recordings of noise, and what VoiceBank's training recordings have over their clean ones."""
    folder.mkdir()
    for file in (speech / "noise").glob("*.wav"):
        soundfile.write(folder / file.name, *soundfile.read(file))
    for file in (speech / "voicebank_demand" / "train" / "clean").glob("*.wav"):
        (noisy, rate), (clean, _) = (soundfile.read(path) for path in (file.parents[1] / "noisy" / file.name, file))
        soundfile.write(folder / f"demand_{file.name}", noisy - clean, rate)


def test_a_short_training_enhances_speakers_that_it_never_heard(tmp_path: Path) -> None:
    speech, noise = Path(os.environ["NOISEWORKS_DATA"], "speech"), tmp_path / "noise"
    gathered_noise(speech, noise)
    mixtures = {"speech_dir": str(speech / "librivox"), "noise_dir": str(noise), "held_out": 0, "noise_held_out": 0.02}
    sets = {
        "voicebank": {
            "class_path": "datamodules.speech.voice_bank_demand.VoiceBankDemand",
            "init_args": {"data_dir": str(speech / "voicebank_demand")},
        },
        "librivox": {"class_path": "datamodules.speech.mixtures.Mixtures", "init_args": mixtures},
    }
    start, means = time.process_time(), {}
    for config in ("small_speech", "small_speech_regressor"):
        out = tmp_path / config
        line = ["fit", "--config", ROOT / "configs" / "sgmse" / f"{config}.yaml", "--test_after_fit", "true"]
        line += ["--data.training.speech_dir", speech / "asterisk_en", "--data.training.noise_dir", noise]
        line += ["--data.test", json.dumps(sets), "--run_directory", out, "--trainer.enable_progress_bar", "false"]
        assert train.main([str(word) for word in line]) == 0
        table = pd.read_csv(out / "speech_quality_summary.csv")
        assert {"0 to 5 dB", "5 to 10 dB", "15 to 20 dB"} <= {*table["band"]}
        means[config] = table[table["band"] == "all"].pivot(index="set", columns="measure", values="mean")
    assert time.process_time() - start < 60 * MINUTES
    diffusion = means["small_speech"]
    assert {"si_sdr", "estoi", "noisy_estoi"} <= {*diffusion}
    for found in means.values():
        assert np.isfinite(found.to_numpy(dtype=float)).all()
