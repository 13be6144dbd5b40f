from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from callbacks.speech_metrics_table import SpeechMetricsTable, speech_summary
from datamodules.loading import Loading
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.speech.tones import Tones
from lightning_modules.restoration.sgmse import SGMSE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
from tests.restoration.speech import Mixing
from tests.trainers import quiet


def test_recordings_are_trained_on_tested_and_shown(tmp_path: Path) -> None:
    trained = SGMSE(Mixing(), spectrogram=Spectrogram(62, 16), frame_multiple=2, num_steps=2)
    data = SpeechPairs(
        Tones(6, length=300),
        {"a": Tones(3, 3), "b": Tones(3, 2)},
        batch_size=3,
        crop_length=240,
        loading=Loading(seed=0),
    )
    trainer = quiet(max_epochs=1, default_root_dir=tmp_path, callbacks=[SpeechMetricsTable(2)])
    trainer.fit(trained, data)
    metrics = trainer.test(trained, data, verbose=False)
    assert "test/b/si_sdr" in metrics[0] | metrics[1]
    table = pd.read_csv(tmp_path / "speech_quality.csv")
    assert table["set"].tolist() == ["a"] * 3 + ["b"] * 2
    assert {"input_snr", "noisy_si_sdr", "si_sdr", "si_sir", "si_sar"} <= {*table}
    means = speech_summary(table).set_index(["set", "band", "measure"])["mean"]
    assert means["a", "all", "si_sdr"] == pytest.approx(table["si_sdr"][:3].mean())
    assert (tmp_path / "figures" / "spectrograms.png").is_file()
    assert len(list((tmp_path / "recordings").iterdir())) == 6


def test_a_summary_has_bands_of_five_decibels() -> None:
    table = pd.DataFrame(
        {"set": "a", "index": [0, 1, 2], "name": list("xyz"), "input_snr": [-1.0, 1.0, 4.0], "si_sdr": [1.0, 2.0, 4.0]}
    )
    found = speech_summary(table).set_index(["band", "measure"])
    assert found.loc[("0 to 5 dB", "si_sdr"), "mean"] == 3
    assert found.loc[("all", "si_sdr"), "count"] == 3
    assert np.isnan(found.loc[("-5 to 0 dB", "si_sdr"), "std"])
