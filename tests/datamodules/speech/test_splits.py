import pytest

from datamodules.speech.splits import of_split

SPEAKERS = [f"{speaker}/{number}.wav" for speaker in ("ada", "bob", "cyd", "dan", "eve") for number in range(2)]


def test_a_speakers_recordings_stay_in_one_split() -> None:
    splits = {split: of_split(SPEAKERS, split, 0.2, "speech_dir") for split in ("training", "validation", "test")}  # type: ignore[arg-type]
    assert splits == {"training": SPEAKERS[:6], "validation": SPEAKERS[6:8], "test": SPEAKERS[8:]}
    flat = [f"{number}.wav" for number in range(10)]
    assert of_split(flat, "validation", 0.2, "speech_dir") == ["6.wav", "7.wav"]


def test_too_few_recordings_for_all_splits_are_named() -> None:
    for names, found in ((["a.wav", "b.wav"], "2 recordings"), (SPEAKERS[:4], "2 recordings and subfolders")):
        with pytest.raises(ValueError, match=f"noise_dir has {found}: training"):
            of_split(names, "test", 0.1, "noise_dir")
