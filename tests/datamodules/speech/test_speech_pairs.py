from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.loading import Loading
from datamodules.speech.mixtures import Mixtures
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.speech.tones import Tones
from tests.datamodules.recorder import Recorder
from tests.datamodules.speech.folders import write
from tests.trainers import quiet


def test_crops_are_of_both_recordings_at_one_place_and_follow_from_the_seed() -> None:
    seen = []
    for seed in (1, 1, 2):
        module = Recorder()
        quiet(max_epochs=2).fit(
            module, SpeechPairs(Tones(9, length=100, seed=0), batch_size=4, crop_length=40, loading=Loading(seed=seed))
        )
        seen.append(module.trained)
    whole = Tones(9, length=100, seed=0).recordings("training")
    for batch in seen[0]:
        assert batch["noisy"].shape == (len(batch["index"]), 40)
        for row, position in enumerate(batch["index"].tolist()):
            crop = (batch["clean"][row] * 32_768).round().to(torch.int16).numpy()
            places = np.lib.stride_tricks.sliding_window_view(whole.clean[position], 40)
            [place] = np.flatnonzero((places == crop).all(axis=1))
            noisy = (batch["noisy"][row] * 32_768).round().to(torch.int16).numpy()
            np.testing.assert_array_equal(noisy, whole.noisy[position][place : place + 40])
    first, again, other = ([batch["noisy"] for batch in batches] for batches in seen)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_whole_recordings_are_batched_by_length(tmp_path: Path) -> None:
    lengths = [400, 499, 500, 450, 700, 401]
    for number, length in enumerate(lengths):
        write(tmp_path / "speech" / f"{number}.wav", length, seed=number)
        write(tmp_path / "noise" / f"{number}.wav", 500, seed=number + 10)
    whole = Mixtures(str(tmp_path / "speech"), str(tmp_path / "noise"), held_out=0)
    data = SpeechPairs(test=whole, loading=Loading(evaluation_batch_size=3, seed=0), length_step=100)
    module = Recorder()
    quiet(default_root_dir=tmp_path).test(module, data, verbose=False)
    assert [batch["index"].tolist() for batch in module.evaluated] == [[0, 1, 3], [2], [4], [5]]
    assert [batch["length"].tolist() for batch in module.evaluated] == [[400, 499, 450], [500], [700], [401]]
    whole.seed = 0
    for kind in ("noisy", "clean"):
        first = module.evaluated[0][kind]
        expected = getattr(whole.recordings("test"), kind)[3]
        assert first.shape == (3, 499)
        np.testing.assert_array_equal((first[2] * 32_768).short()[:450], expected)
        assert (first[2, 450:] == 0).all()
    assert module.evaluated[0]["sample_rate"] == 16_000
    assert (tmp_path / "mixtures_test.csv").is_file()
    two = {name: Mixtures(str(tmp_path / "speech"), str(tmp_path / "noise"), held_out=0.4) for name in "ab"}
    quiet(default_root_dir=tmp_path).test(Recorder(), SpeechPairs(test=two), verbose=False)
    assert (tmp_path / "mixtures_test_b.csv").is_file()


def test_the_first_recordings_are_validated_on() -> None:
    module, data = Recorder(), SpeechPairs(None, validation=Tones(3, 7), validation_recordings=4)
    quiet().validate(module, data, verbose=False)
    assert [batch["index"].tolist() for batch in module.evaluated] == [[0], [1], [2], [3]]


def test_a_folder_is_predicted_and_what_can_not_be_read_is_told(tmp_path: Path) -> None:
    for name, sample_rate in (("a.wav", 16_000), ("b/c.wav", 16_000), ("slow.wav", 8_000)):
        write(tmp_path / name, 200, sample_rate=sample_rate)
    data, module = SpeechPairs(predict_dir=str(tmp_path), loading=Loading(evaluation_batch_size=4)), Recorder()
    quiet().predict(module, data)
    assert [batch["name"] for batch in module.evaluated] == [["a.wav", "b/c.wav"]]
    assert data.predict_set.unreadable == [
        f"{tmp_path}/slow.wav has sample rate 8000, expected 16000; set resample to resample it"
    ]  # type: ignore[union-attr]
    quiet().predict(module := Recorder(), SpeechPairs(predict_dir=str(tmp_path), resample=True))
    assert [batch["noisy"].shape[1] for batch in module.evaluated] == [200, 200, 400]
    quiet().predict(module := Recorder(), SpeechPairs(predict_dir=str(tmp_path / "a.wav")))  # one file is a set of one
    assert [batch["name"] for batch in module.evaluated] == [["a.wav"]]


def test_recordings_of_two_rates_are_rejected() -> None:
    with pytest.raises(ValueError, match="Tones 2000, Tones 4000"):
        SpeechPairs(Tones(3), Tones(3, sample_rate=4000))
