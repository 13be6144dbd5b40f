from pathlib import Path

import pytest

from datamodules.speech.voice_bank_demand import VoiceBankDemand
from tests.datamodules.speech.folders import write, write_pairs

NAMES = ["p226_001.wav", "p226_002.wav", "p300_001.wav"]


def test_speakers_are_held_out_where_there_is_no_folder_to_validate_on(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", NAMES)
    write_pairs(tmp_path / "test", ["p232_001.wav"])
    data = VoiceBankDemand(str(tmp_path))
    splits = {split: data.recordings(split).names for split in ("training", "validation", "test")}  # type: ignore[arg-type]
    assert splits == {"training": ["p300_001"], "validation": ["p226_001", "p226_002"], "test": ["p232_001"]}
    with pytest.raises(ValueError, match="no recording for training: held_out_speakers are p226, p300"):
        VoiceBankDemand(str(tmp_path), ["p226", "p300"]).recordings("training")
    write_pairs(tmp_path / "valid", ["p226_009.wav"])
    assert data.recordings("training").names == ["p226_001", "p226_002", "p300_001"]
    assert data.recordings("validation").names == ["p226_009"]


def test_recordings_without_a_partner_or_of_another_length_are_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "test", ["a.wav"])
    write(tmp_path / "test" / "clean" / "a.wav", 200)
    with pytest.raises(ValueError, match="a: the noisy recording has 300 samples, but the clean recording has 200"):
        VoiceBankDemand(str(tmp_path)).recordings("test")
    write(tmp_path / "test" / "noisy" / "b.wav")
    with pytest.raises(ValueError, match="b has a noisy recording but no clean counterpart"):
        VoiceBankDemand(str(tmp_path)).recordings("test")
    with pytest.raises(FileNotFoundError, match="VoiceBankDemand"):
        VoiceBankDemand(str(tmp_path / "nowhere")).recordings("test")
