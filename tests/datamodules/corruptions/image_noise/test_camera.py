import pytest

from datamodules.corruptions.image_noise.camera import camera


@pytest.mark.parametrize("name", ["SonyA7S2", "NikonD850", "CanonEOS70D", "CanonEOS700D", "CanonEOS5D4"])
def test_cameras_that_come_along_have_gains_of_64_and_two_recordings_of_each(name: str) -> None:
    known = camera(name)
    assert known.gain[1] / known.gain[0] == pytest.approx(64, rel=2e-3)
    assert len(known.tukey_lambda) in (16, 18)
    assert known.row[1] < known.read[1] < known.gaussian[1]
