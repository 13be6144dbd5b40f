from pathlib import Path
from typing import Any

import pytest

from lightning_modules.restoration.sgmse import SpectralRegression
from lightning_modules.restoration.sgmse.ouve import OUVE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
from tests.rejections import Row, rejections
from tests.restoration.speech import module

# fmt: off
REJECTED: list[Row] = [
    ("module end", lambda _: module(end=1.0), ValueError, "end"),
    ("module num_steps", lambda _: module(num_steps=0), ValueError, "num_steps"),
    ("module sampler", lambda _: module(sampler="heun"), ValueError, "sampler"),
    ("module snr", lambda _: module(snr=0.0), ValueError, "snr"),
    ("OUVE stiffness", lambda _: OUVE(stiffness=0.0), ValueError, "stiffness"),
    ("OUVE sigma_min", lambda _: OUVE(sigma_min=-1.0), ValueError, "sigma_min"),
    ("OUVE sigma_max", lambda _: OUVE(sigma_max=0.05), ValueError, "sigma_max must be"),
    ("module frame_multiple", lambda _: module(SpectralRegression, frame_multiple=0), ValueError, "frame_multiple"),
    ("Spectrogram n_fft", lambda _: Spectrogram(n_fft=511), ValueError, "even"),
    ("Spectrogram hop", lambda _: Spectrogram(hop=600), ValueError, "hop"),
    ("Spectrogram exponent", lambda _: Spectrogram(exponent=0.0), ValueError, "exponent"),
    ("Spectrogram factor", lambda _: Spectrogram(factor=0.0), ValueError, "factor"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
