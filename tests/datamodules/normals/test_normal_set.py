import numpy as np
import torch

from datamodules.normals.normal_set import decode_normals, flip_axes


def test_stored_normals_are_turned_by_negating_axes() -> None:
    random = np.random.default_rng(0)
    normal = random.standard_normal((3, 2, 5)).astype(np.float32)
    stored = random.integers(0, 256, (3, 2, 5), dtype=np.uint8)
    for axes in ((1, 1, 1), (-1, 1, 1), (1, -1, -1)):
        signs = np.array(axes)[:, None, None]
        np.testing.assert_array_equal(flip_axes(normal, axes), normal * signs)
        np.testing.assert_allclose(flip_axes(stored, axes) / 255 * 2 - 1, (stored / 255 * 2 - 1) * signs, atol=1e-12)
        assert flip_axes(stored, axes).dtype == np.uint8


def test_bytes_and_numbers_are_decoded_and_what_is_no_normal_is_zero() -> None:
    """Black, grey and the zero vector are not normals; lengths between 0.5 and 1.5 are unchanged."""
    pixels = torch.tensor([[0, 0, 0], [128, 127, 128], [255, 128, 128], [127, 255, 127]], dtype=torch.uint8)
    found = decode_normals(pixels.T[None, :, None], torch.float64)[0, :, 0].T
    known = pixels.double() / 255 * 2 - 1
    torch.testing.assert_close(found, known * torch.tensor([[0.0], [0.0], [1.0], [1.0]]))
    numbers = torch.tensor([[0.0, 0, 0], [0, 0.4, 0], [0, 0, 1.4], [0, 1.6, 0]]).T[None, :, None]
    kept = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    torch.testing.assert_close(decode_normals(numbers, torch.float32)[0, :, 0].T, numbers[0, :, 0].T * kept)
