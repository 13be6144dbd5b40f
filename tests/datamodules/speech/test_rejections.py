from pathlib import Path
from typing import Any

import pytest

from datamodules.speech.speech_pairs import SpeechPairs
from datamodules.speech.splits import of_split
from datamodules.speech.tones import Tones
from tests.datamodules.speech.test_splits import SPEAKERS
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("SpeechPairs", lambda _: SpeechPairs(Tones(3), Tones(3, sample_rate=4000)), ValueError, "Tones 2000, Tones 4000"),
    ("of_split 1", lambda _: of_split(["a.wav", "b.wav"], "test", 0.1, "noise_dir"), ValueError,
     "noise_dir has 2 recordings: training"),
    ("of_split 2", lambda _: of_split(SPEAKERS[:4], "test", 0.1, "noise_dir"), ValueError,
     "noise_dir has 2 recordings and subfolders: training"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
