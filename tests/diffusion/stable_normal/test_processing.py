import pytest
import torch
import torch.nn.functional as F
from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor

from lightning_modules.diffusion.stable_normal.angular_error import unit
from lightning_modules.diffusion.stable_normal.processing import postprocess_normals, preprocess_images, render_normals


@pytest.mark.parametrize("size", [(20, 31), (31, 20), (64, 64), (100, 57)])
def test_images_are_resized_and_filled_up_as_marigold_does(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    expected, padding, _ = MarigoldImageProcessor(vae_scale_factor=8).preprocess(
        image, 48, "bilinear", dtype=torch.float32
    )
    found, filled = preprocess_images(image, 48, 8)
    torch.testing.assert_close(2 * found - 1, expected)
    assert (found.shape[2] - filled[0], found.shape[3] - filled[1]) == tuple(padding)
    same, filled = preprocess_images(image, None, 1)
    assert torch.equal(same, image)
    assert filled == size


def test_normals_come_back_in_the_images_size_with_unit_length() -> None:
    normal = torch.randn(2, 3, 16, 24)
    found = postprocess_normals(normal, (15, 20), (30, 40))
    expected = unit(F.interpolate(unit(normal)[..., :15, :20], (30, 40), mode="bilinear"))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 30, 40))
    torch.testing.assert_close(postprocess_normals(normal, (16, 24), (16, 24)), unit(normal))


def test_colours_show_axes_and_black_is_unknown() -> None:
    normal = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, 0]]).T[None, :, None]
    assert render_normals(normal)[0, :, 0].T.tolist() == [[1, 0.5, 0.5], [0.5, 0, 0.5], [0, 0, 0]]
