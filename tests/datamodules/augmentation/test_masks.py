import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.augmentation.masks import MaskAugmentation


@settings(max_examples=40, deadline=None)
@given(
    st.integers(5, 60), st.integers(5, 60), st.integers(5, 40), st.lists(st.floats(0, 0.999), min_size=3, max_size=3)
)
def test_a_square_lies_in_a_larger_image_and_around_a_smaller_one(
    height: int, width: int, size: int, uniform: list[float]
) -> None:
    crop = MaskAugmentation(size, 0.5, 1.5)
    place = crop.place(height, width, uniform)
    assert (place.height, place.width) == tuple(max(round(side * (0.5 + uniform[0])), 1) for side in (height, width))
    for begin, side in ((place.top, place.height), (place.left, place.width)):
        assert (0 <= begin <= side - size) if side >= size else (side - size <= begin <= 0)
    mask = torch.ones(height, width, dtype=torch.uint8)
    inside = crop.mask(mask, place) == 1
    assert int(inside.sum()) == min(place.height, size) * min(place.width, size)
    white = Image.new("RGB", (width, height), "white")
    assert np.array_equal((crop.image(white, place) == 255).all(axis=2), inside)


def test_a_crop_is_a_part_of_the_whole_scaled_image() -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(256, size=(50, 40, 3), dtype=np.uint8))
    mask = torch.arange(2000).remainder(251).byte().view(50, 40)
    crop = MaskAugmentation(30, 1.5, 1.5)
    place = crop.place(50, 40, [0, 0.5, 0.7])
    whole = np.asarray(image.resize((60, 75), Image.Resampling.BICUBIC)).astype(int)
    expected = whole[place.top : place.top + 30, place.left : place.left + 30]
    assert np.abs(crop.image(image, place).astype(int) - expected).max() <= 1
    nearest = torch.nn.functional.interpolate(mask[None, None].float(), (75, 60), mode="nearest-exact")[0, 0].byte()
    assert torch.equal(crop.mask(mask, place), nearest[place.top : place.top + 30, place.left : place.left + 30])


def test_images_and_masks_are_mirrored_together() -> None:
    augmentation = MaskAugmentation(8, hue=0, saturation=0, value=0)
    image = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)
    label = image[:, 0] % 21
    batch = {"image": image, "label": label, "clean_label": label, "index": torch.arange(64)}
    mirrored = augmentation.apply(dict(batch), seed=4, epoch=3)
    turned = (mirrored["image"] == image.flip(3)).flatten(start_dim=1).all(dim=1)
    assert 16 < int(turned.sum()) < 48
    assert torch.equal(mirrored["image"][~turned], image[~turned])
    for key in ("label", "clean_label"):
        assert torch.equal(mirrored[key], mirrored["image"][:, 0] % 21)
