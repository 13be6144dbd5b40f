import math

import pytest

from datamodules.prompts.buckets import Buckets, CoveringCrop, nearest_bucket

SDXL = {
    *((768, 1344), (832, 1216), (832, 1152), (896, 1152), (896, 1088), (960, 1088), (960, 1024), (1024, 1024)),
    *((704, 1472), (640, 1600), (576, 1792), (512, 2048)),
}
"""Short and long sides from the table in the appendix of SDXL's paper, without the sizes of least area."""


@pytest.mark.parametrize("max_ratio", [1.0, 2.0, 4.0])
def test_buckets_are_those_of_sdxl(max_ratio: float) -> None:
    found = Buckets(64, max_ratio).sizes(1024)
    assert (1024, 1024) in found
    assert len(found) == len(set(found)) == {1.0: 1, 2.0: 9, 4.0: 17}[max_ratio]
    for height, width in found:
        assert (min(height, width), max(height, width)) in SDXL
        assert height * width <= 1024**2
        assert max(height, width) <= max_ratio * min(height, width)
        assert (width, height) in found


def test_an_image_goes_to_the_bucket_that_loses_least_of_it() -> None:
    buckets = Buckets(64).sizes(512)
    sizes = [(480, 640), (640, 480), (700, 701), (300, 3000), (1080, 1920)]
    for (height, width), number in zip(sizes, nearest_bucket(sizes, buckets), strict=True):

        def kept(tall: int, wide: int, height: int = height, width: int = width) -> float:
            """Return the fraction of the image that remains after a crop to the aspect ratio `tall` : `wide`."""
            return min(width / height, wide / tall) / max(width / height, wide / tall)

        assert kept(*buckets[number]) == max(kept(*bucket) for bucket in buckets)


@pytest.mark.parametrize("zoom", [1.0, 1.25])
@pytest.mark.parametrize("source", [(640, 480), (480, 640), (97, 1000), (64, 64), (1024, 500)])
def test_a_crop_has_the_ratio_of_its_bucket_and_lies_in_the_image(source: tuple[int, int], zoom: float) -> None:
    width, height = source
    crop = CoveringCrop(192, 320, zoom)
    assert crop.shape == (192, 320)
    wide, tall = crop.resize_images(width, height)
    assert wide >= 320
    assert tall >= 192
    assert wide == zoom * 320 or tall == zoom * 192
    assert math.isclose(wide / tall, width / height, rel_tol=1 / min(wide, tall))
    for place in (None, (0.0, 0.0), (0.3, 0.8), (0.999999, 0.999999)):
        left, top, right, bottom = crop.box(width, height, place)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left) * wide / width == pytest.approx(320)
        assert (bottom - top) * tall / height == pytest.approx(192)
        corner = crop.corner(width, height, place)
        assert corner == pytest.approx((left * wide / width, top * tall / height))
    assert crop.corner(width, height, (0.0, 0.0)) == (0, 0)
    assert crop.corner(width, height, (0.999999, 0.999999)) == (wide - 320, tall - 192)
