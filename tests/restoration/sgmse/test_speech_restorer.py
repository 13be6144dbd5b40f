from pathlib import Path

import pytest
import soundfile
import torch

from datamodules.loading import Loading
from datamodules.randomness.counter import CounterRNG
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.speech.tones import Tones
from lightning_modules.restoration.sgmse import SGMSE
from lightning_modules.restoration.sgmse.ouve import OUVE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
from lightning_modules.restoration.sgmse.speech_restorer import complex_normal
from tests.datamodules.speech.folders import write
from tests.restoration.speech import Mixing, module
from tests.trainers import quiet


def test_noise_has_half_of_its_variance_in_either_part() -> None:
    noise = complex_normal(CounterRNG(0, 0, torch.arange(4)))(torch.zeros(4, 5000, dtype=torch.complex128))
    assert float(noise.abs().square().mean()) == pytest.approx(1, abs=3 / 20_000**0.5)
    assert float(noise.real.square().mean()) == pytest.approx(0.5, abs=0.02)
    assert abs(float((noise.real * noise.imag).mean())) < 0.015
    again = complex_normal(CounterRNG(0, 0, torch.arange(1, 3)))(torch.zeros(2, 5000, dtype=torch.complex128))
    torch.testing.assert_close(again, noise[1:3])


def test_recordings_are_written_and_an_interrupted_prediction_continues(tmp_path: Path) -> None:
    trained = SGMSE(Mixing(), spectrogram=Spectrogram(62, 16), frame_multiple=2, num_steps=2)
    trainer = quiet(default_root_dir=tmp_path)
    for name in ("x.wav", "deep/y.flac"):
        write(tmp_path / "mine" / name, 333, sample_rate=2000)
    folder = SpeechPairs(test=Tones(3), predict_dir=str(tmp_path / "mine"), loading=Loading(evaluation_batch_size=2))
    trainer.predict(trained, folder)
    files = [tmp_path / "enhanced" / name for name in ("x.wav", "deep/y.flac")]
    assert [soundfile.info(file).frames for file in files] == [333, 333]
    before = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert trainer.predict(trained, folder) == [["deep/y.flac"]]
    assert files[0].stat().st_mtime_ns == before
    write(tmp_path / "mine" / "x.wav", 333, seed=9, sample_rate=2000)
    with pytest.raises(ValueError, match="was written for other input data"):
        trainer.predict(trained, folder)


def test_recordings_of_several_sets_are_written_into_folders_of_their_own(tmp_path: Path) -> None:
    trained = SGMSE(Mixing(), spectrogram=Spectrogram(62, 16), frame_multiple=2, num_steps=1)
    data = SpeechPairs(test={"a": Tones(3, 1), "b": Tones(3, 2, length=20)}, loading=Loading(seed=0))
    quiet(default_root_dir=tmp_path).predict(trained, data)
    written = sorted(path.relative_to(tmp_path / "enhanced").as_posix() for path in tmp_path.rglob("*.wav"))
    assert written == ["a/tone_0000.wav", "b/tone_0000.wav", "b/tone_0001.wav"]
    assert soundfile.info(tmp_path / "enhanced" / written[1]).frames == 20  # shorter than half a window


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"process": OUVE(stiffness=2.0)}, r"model.process is .*'stiffness': 2.0.*trained with .*'stiffness': 1.5"),
        ({"spectrogram": Spectrogram(14, 7)}, r"model.spectrogram is .*'hop': 7.*trained with .*'hop': 4"),
    ],
)
def test_a_checkpoint_of_another_transform_or_process_is_refused(other: dict, message: str) -> None:
    checkpoint: dict = {}
    module().on_save_checkpoint(checkpoint)
    module(num_steps=5).on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=message):
        module(**other).on_load_checkpoint(checkpoint)
