from pathlib import Path

import numpy as np
import pytest

from datamodules.speech.mixtures import Mixtures
from tests.datamodules.speech.folders import write


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    for number in range(10):
        write(tmp_path / "speech" / f"{number}.wav", 400 + number, seed=number)
    for number in range(3):
        write(tmp_path / "noise" / f"{number}.wav", 150 + 400 * number, seed=50 + number)
    return str(tmp_path / "speech"), str(tmp_path / "noise")


def test_mixtures_have_the_ratios_and_the_excerpts_of_their_table(folders: tuple[str, str]) -> None:
    data = Mixtures(*folders, snr=(-5, 10), seed=3)
    for split, count in (("training", 8), ("validation", 1), ("test", 1)):
        found = data.recordings(split)  # type: ignore[arg-type]
        assert len(found.names) == count
        for (_, row), noisy, clean in zip(found.table.iterrows(), found.noisy, found.clean, strict=True):
            voice, noise = clean.astype(float), noisy.astype(float) - clean
            assert 10 * np.log10((voice**2).mean() / (noise**2).mean()) == pytest.approx(row["snr"], abs=0.05)
            sound = write(Path(folders[1], "again.wav"), 150 + 400 * int(row["noise"][0]), 50 + int(row["noise"][0]))
            Path(folders[1], "again.wav").unlink()
            excerpt = np.take(sound.astype(float), np.arange(row["start"], row["start"] + len(noise)), mode="wrap")
            assert np.corrcoef(excerpt, noise)[0, 1] > 0.999


def test_a_mixture_and_its_clean_recording_are_divided_alike_where_16_bits_would_overflow(tmp_path: Path) -> None:
    for number in range(3):
        voice = write(tmp_path / "speech" / f"{number}.wav", 400, seed=number) / 2**15
        write(tmp_path / "noise" / f"{number}.wav", 401, seed=50 + number)
    found = Mixtures(str(tmp_path / "speech"), str(tmp_path / "noise"), snr=(-20, -20), held_out=0.34).recordings(
        "test"
    )
    loudest = found.table["divided_by"].item()
    assert loudest > 1.5
    assert np.abs(found.noisy[0]).max() == round(0.999 * 2**15)
    np.testing.assert_allclose(found.clean[0] / 2**15, voice / loudest, atol=2**-15)


def test_noise_begins_anywhere_where_it_covers_the_recording(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / "speech" / f"{number}.wav", 400, seed=number)
    write(tmp_path / "noise" / "0.wav", 401)
    table = Mixtures(str(tmp_path / "speech"), str(tmp_path / "noise"), held_out=0).recordings("training").table
    assert set(table["start"]) == {0, 1}


def test_splits_share_no_recording_and_draws_follow_from_the_seed(folders: tuple[str, str]) -> None:
    tables = [Mixtures(*folders, seed=1).recordings(split).table for split in ("training", "validation", "test")]  # type: ignore[arg-type]
    for kind in ("speech", "noise"):
        names = [set(table[kind]) for table in tables if table is not None]
        assert not names[0] & names[1] | names[1] & names[2] | names[0] & names[2]
    first, again, other = (Mixtures(*folders, seed=seed).recordings("training") for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.noisy[0], again.noisy[0])
    assert not np.array_equal(first.noisy[0], other.noisy[0])


def test_splits_with_folders_of_their_own_take_all_of_the_speech_and_some_files_of_noise(
    folders: tuple[str, str],
) -> None:
    write(Path(folders[1], "1.CH2.wav"), 500)
    found = Mixtures(*folders, held_out=0, noise_held_out=0.3, noise_files="?.wav").recordings("test")
    assert len(found.names) == 10
    assert set(found.table["noise"]) == {"2.wav"}
    with pytest.raises(FileNotFoundError, match=r"has no recording named \*.CH5.wav"):
        Mixtures(*folders, noise_files="*.CH5.wav").recordings("test")


def test_what_can_not_be_mixed_is_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    Path(folders[1], "0.wav").unlink()
    with pytest.raises(ValueError, match="noise_dir has 2 recordings: training, validation and test need one each"):
        Mixtures(*folders).recordings("training")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"noise_dir: .*empty has no recording"):
        Mixtures(folders[0], str(tmp_path / "empty")).recordings("test")
