import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.corruptions.image_noise import CounterRNG, Sensor
from datamodules.corruptions.image_noise.calibration import (
    calibrate_camera,
    even_areas,
    flat_frames,
    line,
    photon_transfer,
    recording,
)
from datamodules.corruptions.image_noise.camera import camera
from datamodules.files.bayer import pack_bayer, unpack_bayer
from tests.datamodules.corruptions.image_noise.test_sensor import fixed


def frames(light: float, count: int, gain: float, read: float = 3.0, row: float = 1.2) -> np.ndarray:
    """Draw Bayer frames `[count, 200, 300]` of a sensor with a black level of 64."""
    state = fixed(count, gain, read, row)
    signal = torch.full((count, 4, 100, 150), light, dtype=torch.float64)
    index = torch.arange(count) + int(1000 * gain + light)
    planes = Sensor().expose(signal, state, CounterRNG(0, 0, index)).numpy() + 64
    return np.stack([unpack_bayer(one) for one in planes])


def test_a_calibration_finds_the_parameters_again() -> None:
    """Calibration on simulated frames recovers the gain and the noise parameters."""
    curve = [flat_frames(list(pack_bayer(np.moveaxis(frames(light, 4, 2.5), 0, -1))[1].transpose(2, 0, 1)), 64)
             for light in (50, 200, 400, 800)]  # fmt: skip
    gain, _ = photon_transfer(*np.array(curve).T)
    assert gain == pytest.approx(2.5, rel=0.03)
    found = recording(frames(0, 1, 2.5)[0], gain, black=64)
    assert found.row == pytest.approx(1.2, rel=0.12)
    assert found.tukey_lambda == pytest.approx(-0.12, abs=0.1)
    assert found.read == pytest.approx(3, rel=0.12)
    assert found.fit > max(found.normal_fit, 0.97)
    np.testing.assert_allclose(found.colour_bias, [1, -2, 0.5, 3], atol=0.35)


def test_a_camera_is_fitted_over_its_gains() -> None:
    gains = np.array([0.5, 1, 2, 4, 8, 16])
    spread = np.random.default_rng(0).normal(0, 0.2, 6)
    slope, intercept, rest = line(gains, np.exp(0.5 * np.log(gains) - 0.3))
    assert (slope, intercept, rest) == (pytest.approx(0.5), pytest.approx(-0.3), pytest.approx(0, abs=1e-12))
    assert line(gains, np.exp(spread))[2] == pytest.approx(0.2, rel=0.6)
    recordings = [recording(frames(0, 1, gain, read=gain, row=gain / 2)[0], gain, 64) for gain in (4.0, 1.0, 2.0)]
    fitted = calibrate_camera(recordings)
    assert fitted.gain == (1, 4)
    assert fitted.read[:2] == (pytest.approx(1, abs=0.1), pytest.approx(0, abs=0.1))
    assert fitted.row[:2] == (pytest.approx(1, abs=0.15), pytest.approx(np.log(0.5), abs=0.2))
    assert len(fitted.tukey_lambda) == 3


def test_even_squares_are_told_from_edges_and_gradients() -> None:
    random = np.random.default_rng(0)
    even = 100 + random.normal(0, 3, (60, 60))
    mean, variance = even_areas(even)
    assert len(mean) > 20  # out of 25
    assert np.median(variance) == pytest.approx(9, rel=0.1)
    edges = even + 50 * (np.arange(60) % 12 > 5)
    slopes = even + 3 * np.arange(60)
    assert len(even_areas(edges)[0]) == len(even_areas(slopes)[0]) == 0


@pytest.mark.data
def test_measured_profiles_of_cameras_follow_the_line_over_gains() -> None:
    """Six cameras have variances a x + b at each ISO; three have about the slope of dark noise that ELD calibrated."""
    file = Path(os.environ["NOISEWORKS_DATA"]) / "raw_camera" / "noise_profiles.json"
    slopes = {}
    for maker in json.loads(file.read_text())["noiseprofiles"]:
        for model in maker["models"]:
            a, b = np.array([[profile["a"][1], profile["b"][1]] for profile in model["profiles"]]).T
            slopes[model["model"]], _, rest = line(a[b > 0], np.sqrt(b[b > 0]))
            assert rest < 0.3
    for ours, theirs in {"D850": "NikonD850", "EOS 70D": "CanonEOS70D", "EOS 700D": "CanonEOS700D"}.items():
        assert slopes[ours] == pytest.approx(camera(theirs).gaussian[0], abs=0.2)
