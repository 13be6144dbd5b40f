from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.corruptions.image_noise.camera import camera


@pytest.mark.parametrize("name", ["SonyA7S2", "NikonD850", "CanonEOS70D", "CanonEOS700D", "CanonEOS5D4"])
def test_cameras_that_come_along_have_gains_of_64_and_two_recordings_of_each(name: str) -> None:
    known = camera(name)
    assert known.gain[1] / known.gain[0] == pytest.approx(64, rel=2e-3)
    assert len(known.tukey_lambda) in (16, 18)
    assert known.row[1] < known.read[1] < known.gaussian[1]


def test_parameters_survive_a_file(tmp_path: Path) -> None:
    camera("NikonD850").save(tmp_path / "own.yaml")
    assert camera(str(tmp_path / "own.yaml")) == camera("NikonD850")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": (2.0, 1.0)}, "gain must be two positive numbers in ascending order"),
        ({"row": (1.0, 0.0, -0.1)}, "row must be slope, intercept and spread"),
        ({"tukey_lambda": (0.1,)}, "one entry for each recording"),
        ({"tukey_lambda": (-0.6,), "colour_bias": ((0.0,) * 4,)}, "tukey_lambda must be above -0.5"),
        ({"tukey_lambda": (0.1,), "colour_bias": ((0.0,) * 3,)}, "four numbers per row"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(camera("SonyA7S2"), **change)


def test_an_unknown_camera_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"camera must be one of SonyA7S2, .* or your own camera file, got Leica"):
        camera("Leica")
    (tmp_path / "other.yaml").write_text("iso: 100")
    with pytest.raises(ValueError, match=r"other.yaml is not a camera file"):
        camera(str(tmp_path / "other.yaml"))
