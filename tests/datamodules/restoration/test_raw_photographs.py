import numpy as np

from datamodules.files.bayer import unpack_bayer
from datamodules.restoration.photographs import Photographs
from datamodules.restoration.raw_photographs import WHITE, RawPhotographs


def test_pixels_of_the_sensor_are_those_of_the_photograph_under_their_filters() -> None:
    raw = RawPhotographs(24, white_balance=(2.0, 1.25)).images("test")
    photographs = Photographs(24, colour=True).images("test")
    assert (raw.names, raw.data_range) == (photographs.names, WHITE)
    for planes, photograph in zip(raw.stored, photographs.stored, strict=True):
        bayer = unpack_bayer(planes) / WHITE
        for row, column, colour, factor in ((0, 0, 0, 2), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 2, 1.25)):
            light = (factor * bayer[row::2, column::2]) ** (1 / 2.2)
            np.testing.assert_allclose(light, photograph[colour, row::2, column::2] / 255, atol=0.008)
