from pathlib import Path
from typing import Any

import pytest

from lightning_modules.restoration.sgmse.ouve import OUVE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("OUVE sigma_max", lambda _: OUVE(sigma_max=0.05), ValueError, "sigma_max must be"),
    ("Spectrogram n_fft", lambda _: Spectrogram(n_fft=511), ValueError, "even"),
    ("Spectrogram hop", lambda _: Spectrogram(hop=600), ValueError, "hop"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
