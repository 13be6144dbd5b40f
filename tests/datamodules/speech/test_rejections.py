from pathlib import Path
from typing import Any

import pytest

from datamodules.speech.reverberant import Reverberant
from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.speech.splits import of_split
from datamodules.speech.tones import Tones
from tests.datamodules.speech.test_splits import SPEAKERS
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("Reverberant reverberation", lambda _: Reverberant("speech", reverberation=(1, 0.4)), ValueError,
     "reverberation must be"),
    ("Reverberant held_out", lambda _: Reverberant("speech", held_out=0.5), ValueError, "held_out"),
    ("Reverberant rate", lambda _: Reverberant("speech", sample_rate=0), ValueError, "sample_rate"),
    ("SpeechPairs", lambda _: SpeechPairs(Tones(3), Tones(3, sample_rate=4000)), ValueError, "Tones 2000, Tones 4000"),
    ("SpeechPairs crop_length", lambda _: SpeechPairs(Tones(3), crop_length=0), ValueError, "crop_length"),
    ("SpeechPairs validation_recordings", lambda _: SpeechPairs(Tones(3), validation_recordings=0), ValueError,
     "validation_recordings"),
    ("of_split 1", lambda _: of_split(["a.wav", "b.wav"], "test", 0.1, "noise_dir"), ValueError,
     "noise_dir has 2 recordings: training"),
    ("of_split 2", lambda _: of_split(SPEAKERS[:4], "test", 0.1, "noise_dir"), ValueError,
     "noise_dir has 2 recordings and subfolders: training"),
    ("Tones", lambda _: Tones(0), ValueError, "samples"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
