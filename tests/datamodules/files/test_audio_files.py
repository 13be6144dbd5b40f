from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.files import audio_files
from datamodules.files.audio_files import (
    UnreadableRecording,
    as_int16,
    digest_in,
    read_recording,
    recording_names,
    write_recording,
)
from datamodules.files.whole_files import DamagedFile


def tone(count: int = 1600, sample_rate: int = 16_000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 200 * np.arange(count) / sample_rate)


@pytest.mark.parametrize(("name", "accuracy"), [("a.wav", 4e-5), ("a.flac", 4e-5)])
def test_recordings_are_read_as_they_are(tmp_path: Path, name: str, accuracy: float) -> None:
    soundfile.write(tmp_path / name, tone(), 16_000)
    np.testing.assert_allclose(read_recording(tmp_path / name, 16_000), tone(), atol=accuracy)


def test_another_rate_and_several_channels_are_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(4800, 48_000), np.zeros(4800)], axis=1), 48_000)
    with pytest.raises(UnreadableRecording, match=r"a.wav has 2 channels; set mix_channels"):
        read_recording(tmp_path / "a.wav", 48_000)
    with pytest.raises(UnreadableRecording, match=r"a.wav has sample rate 48000, expected 16000; set resample"):
        read_recording(tmp_path / "a.wav", 16_000, mix_channels=True)
    mono = read_recording(tmp_path / "a.wav", 16_000, resample=True, mix_channels=True)
    np.testing.assert_allclose(mono[100:-100], tone()[100:-100] / 2, atol=2e-3)


def test_silent_and_damaged_files_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(UnreadableRecording, match=r"silent\.wav is silent"):
        read_recording(tmp_path / "silent.wav", 16_000)
    with pytest.raises(UnreadableRecording, match=r"broken\.wav cannot be read"):
        read_recording(tmp_path / "broken.wav", 16_000)


def test_folders_are_listed_and_empty_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x.wav", "a.FLAC", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert recording_names(tmp_path, "speech_dir") == ["a.FLAC", "b/x.wav"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"noise_dir: .*empty has no recording"):
        recording_names(tmp_path / "empty", "noise_dir")
    with pytest.raises(FileNotFoundError, match=r"noise_dir: .*nowhere is not a folder"):
        recording_names(tmp_path / "nowhere", "noise_dir")


def test_16_bits_are_rounded_and_clipped() -> None:
    assert as_int16(np.array([0.5, -1.0, 1.0, 3.0, 1.4 / 32768])).tolist() == [16384, -32768, 32767, 32767, 1]


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'noiseworks\[audio\]'"):
        audio_files.soundfile()


@pytest.mark.parametrize("kept", [0, 10, 60, -1])
def test_a_written_recording_that_is_cut_is_damaged(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "voice.wav"
    write_recording(path, np.linspace(-0.5, 0.5, 100), 16_000, "abc123")
    assert digest_in(path) == "abc123"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedFile, match=r"voice.wav is not a whole recording"):
        digest_in(path)
