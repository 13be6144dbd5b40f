import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.backbones.tiled import TiledInference, apply_padded, apply_tiled, self_ensembled, tile_spans


def layers(depth: int) -> nn.Module:
    """Build `depth` convolutions; each of them extends the receptive field by one pixel per side."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh()) for _ in range(depth)))


def strided() -> nn.Module:
    """Build a network that first halves and then doubles the image size; its reach is seven pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 3, 1, 1), nn.ConvTranspose2d(4, 2, 2, 2))


IMAGE = torch.rand(2, 2, 53, 61, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(("tile", "overlap"), [(24, 8), (25, 9), (40, 8), (64, 30)])
def test_tiles_give_what_the_whole_image_gives(tile: int, overlap: int, dtype: torch.dtype, atol: float) -> None:
    network, image = layers(overlap // 2).to(dtype), IMAGE.to(dtype)
    sizes = []

    def function(image: Tensor) -> Tensor:
        sizes.append(max(image.shape[2:]))
        return network(image)

    torch.testing.assert_close(apply_tiled(function, image, tile, overlap), network(image), atol=atol, rtol=0)
    assert max(sizes) <= tile


@torch.no_grad()
def test_a_longer_reach_is_wrong_beside_the_cuts_alone() -> None:
    """Only pixels closer to a cut than (reach - overlap / 2) may differ from the output for the whole image."""
    network = layers(7)
    error = (apply_tiled(network, IMAGE, 40, 8) - network(IMAGE)).abs().amax(dim=(0, 1))
    assert error.max() > 1e-5
    cuts = [span[1].stop for span in tile_spans(61, 40, 8)[:-1]]
    far = torch.tensor([min(abs(x + 0.5 - cut) for cut in cuts) > 3 for x in range(61)])
    far_down = torch.tensor([min(abs(y + 0.5 - s[1].stop) for s in tile_spans(53, 40, 8)[:-1]) > 3 for y in range(53)])
    assert error[far_down][:, far].max() < 1e-6


@torch.no_grad()
def test_padded_tiles_of_a_network_with_a_stride() -> None:
    network = strided()

    def function(image: Tensor) -> Tensor:
        return apply_padded(network, image, 2)

    torch.testing.assert_close(apply_tiled(function, IMAGE, 32, 14), function(IMAGE), atol=1e-6, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.data())
def test_spans_give_each_pixel_once(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, (tile - 1) // 2))
    spans = tile_spans(length, tile, overlap)
    assert [pixel for _, own in spans for pixel in range(own.start, own.stop)] == list(range(length))
    for seen, own in spans:
        assert seen.stop - seen.start <= tile
        assert own.start - seen.start >= (overlap // 2 if seen.start else 0)
        assert seen.stop - own.stop >= (overlap // 2 if seen.stop < length else 0)


@pytest.mark.parametrize("size", [(32, 48), (33, 49), (47, 17)])
def test_padding_is_a_reflection_that_is_cut_off(size: tuple[int, int]) -> None:
    image = torch.rand(1, 1, *size)
    seen: list[Tensor] = []

    def function(given: Tensor) -> Tensor:
        seen.append(given)
        return given

    assert torch.equal(apply_padded(function, image, 16), image)
    [given] = seen
    assert all(side % 16 == 0 and side - own < 16 for side, own in zip(given.shape[2:], size, strict=True))
    for y in range(size[0], given.shape[2]):
        assert torch.equal(given[:, :, y, : size[1]], image[:, :, 2 * (size[0] - 1) - y])


def test_an_ensemble_is_the_mean_over_rotations_and_reflections() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
    image = torch.rand(1, 1, 9, 12, dtype=torch.float64)
    kernel = network.weight.detach()
    turned = [torch.rot90(each, k, (2, 3)) for k in range(4) for each in (kernel, kernel.flip(3))]
    expected = nn.functional.conv2d(image, sum(turned) / 8, padding=1)  # type: ignore[arg-type]
    torch.testing.assert_close(self_ensembled(network, image), expected)


@torch.no_grad()
def test_inference_pads_tiles_and_averages() -> None:
    network = strided()
    expected = self_ensembled(lambda image: apply_padded(network, image, 2), IMAGE)
    found = TiledInference(multiple=2, tile=32, overlap=14, self_ensemble=True)(network, IMAGE)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(TiledInference()(layers(1), IMAGE), layers(1)(IMAGE))
