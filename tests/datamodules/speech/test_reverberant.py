import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.speech.reverberant import Reverberant, drawn_room, in_room
from datamodules.speech.voice_bank_demand import VoiceBankDemand
from tests.datamodules.speech.folders import write


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "speech" / f"{number}.wav", 2000 + 100 * number, seed=number)
    return tmp_path / "speech"


def test_rooms_are_as_large_as_is_said_and_follow_from_their_numbers() -> None:
    rooms = [drawn_room(np.random.default_rng([0, number]), (0.4, 1.0)) for number in range(300)]
    sides = np.stack([room["sides"] for room in rooms])
    assert (sides >= (5, 5, 2)).all()
    assert (sides <= (15, 15, 6)).all()
    assert sides.mean(axis=0) == pytest.approx((10, 10, 4), rel=0.06)
    for key in ("source", "microphone"):
        places = np.stack([room[key] for room in rooms])
        assert (places >= 1).all()
        assert (places <= sides - 1).all()
    assert np.mean([room["reverberation"] for room in rooms]) == pytest.approx(0.7, abs=0.04)


def test_without_walls_sound_takes_its_way_and_with_them_it_fades_slowly() -> None:
    pytest.importorskip("pyroomacoustics")
    room = {"reverberation": 0.6, "sides": np.array([6, 5, 3.0]), "rays": [1, 2]}
    room |= {"source": np.array([2, 2, 1.5]), "microphone": np.array([4, 3, 1.5])}
    click = np.zeros(1600)
    click[100] = 1.0
    wet, dry = in_room(click, 16_000, room)
    assert wet.shape == dry.shape
    assert np.abs(wet).max() == pytest.approx(0.9)
    way = 5**0.5 / 343 * 16_000
    assert np.abs(dry).argmax() - 100 == pytest.approx(way + 40, abs=2)  # 40: half of the filter that delays parts
    late = slice(100 + 1600, None)  # after the first tenth of a second
    assert (wet[late] ** 2).sum() / (wet**2).sum() > 20 * (dry[late] ** 2).sum() / (dry**2).sum()
    energy = (wet**2)[::-1].cumsum()[::-1]
    levels = 10 * np.log10(energy / energy[0] + 1e-12)
    slope = [np.argmax(levels < level) for level in (-5, -25)]
    assert 3 * (slope[1] - slope[0]) / 16_000 == pytest.approx(0.6, rel=0.35)
    in_room(click[:500], 16_000, {**room, "rays": [3, 4]})
    np.testing.assert_array_equal(in_room(click, 16_000, room)[0], wet)


def test_recordings_follow_from_the_seed_and_are_kept(speech: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyroomacoustics")
    fresh = [Reverberant(str(speech), seed=seed).recordings("test") for seed in (1, 1, 2)]
    np.testing.assert_array_equal(fresh[0].noisy[0], fresh[1].noisy[0])
    assert not np.array_equal(fresh[0].noisy[0][:500], fresh[2].noisy[0][:500])
    assert fresh[0].table_name == "rooms"
    assert {"speech", "reverberation", "sides_x", "source_z"} <= {*fresh[0].table}
    kept = Reverberant(str(speech), seed=1, held_out=0, written_to=str(tmp_path / "kept"))
    whole, room = kept.recordings("test"), tmp_path / "kept" / "test" / "reverb" / "0.wav"
    np.testing.assert_array_equal(kept.recordings("test").clean[0], whole.clean[0])
    before = room.stat().st_mtime_ns
    (tmp_path / "kept" / "test" / "anechoic" / "2.wav").unlink()  # as left by a run that was killed
    np.testing.assert_array_equal(kept.recordings("test").clean[2], whole.clean[2])
    assert room.stat().st_mtime_ns == before
    read = VoiceBankDemand(str(tmp_path / "kept"), reverberant=True).recordings("test")
    for ours, theirs in zip(whole.noisy, read.noisy, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    write(speech / "0.wav", 2000, seed=9)
    assert not np.array_equal(kept.recordings("test").noisy[0], whole.noisy[0])
    assert soundfile.info(room).samplerate == 16_000


def test_without_the_package_the_error_says_how_to_get_it(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'noiseworks\[rooms\]'"):
        Reverberant(str(speech)).recordings("test")
