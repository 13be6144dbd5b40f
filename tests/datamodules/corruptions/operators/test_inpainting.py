from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.corruptions.operators import FreeForm, Inpainting, MaskFolder, RandomPixels


def test_a_mask_keeps_what_it_has_and_greys_the_rest() -> None:
    mask = torch.tensor([[[[True, False], [False, True]]]])
    image = torch.arange(1.0, 13).view(1, 3, 2, 2)
    found = Inpainting(mask).forward(image)
    assert found[0, :, 0, 1].tolist() == [0, 0, 0]
    assert found[0, :, 1, 1].tolist() == [4, 8, 12]


def test_pixels_are_kept_as_often_as_is_said() -> None:
    masks = RandomPixels(0.3).mask(torch.arange(50), (32, 32)).float()
    assert masks.mean() == pytest.approx(0.3, abs=4 * (0.21 / masks.numel()) ** 0.5)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (64, 96), (256, 256)])
def test_strokes_hide_a_part_between_the_bounds(size: tuple[int, int]) -> None:
    masks = FreeForm(0.2, 0.3).mask(torch.arange(6), size)
    hidden = 1 - masks.float().mean(dim=(1, 2, 3))
    assert bool(((hidden >= 0.2) & (hidden <= 0.3)).all())
    if min(size) >= 64:  # masks are lines; for single pixels, 2 x .75 x .25 would differ from their neighbour
        borders = (masks[..., 1:] != masks[..., :-1]).float().mean(dim=(1, 2, 3))
        assert bool((borders < 0.1).all())


def test_masks_of_files(tmp_path: Path) -> None:
    for name, column in (("b.png", 3), ("a.png", 1)):
        pixels = np.zeros((4, 6), np.uint8)
        pixels[:, column] = 255
        Image.fromarray(pixels).save(tmp_path / name)
    masks = MaskFolder(str(tmp_path)).mask(torch.tensor([1, 0]), (4, 6))
    assert masks.shape == (2, 1, 4, 6)
    assert masks[:, 0, 0].nonzero()[:, 1].tolist() == [3, 1]


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    folder = MaskFolder(str(tmp_path))
    for make, kind, message in (
        (lambda: FreeForm().forward(torch.zeros(1, 1, 4, 4)), TypeError, "FreeForm.of"),
        (lambda: folder.mask(torch.tensor([1]), (4, 6)), ValueError, "has 1 masks, but there is an image number 2"),
        (
            lambda: folder.mask(torch.tensor([0]), (5, 6)),
            ValueError,
            "a.png in .* has 4 x 6 pixels, but its image has 5 x",
        ),
    ):
        with pytest.raises(kind, match=message):
            make()
