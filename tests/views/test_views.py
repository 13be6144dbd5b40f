import math

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_modules.views import (
    AddedNoise,
    ColourJitter,
    ContrastiveView,
    RandAugment,
    RandomCrop,
    StrongView,
    ThreeAugment,
    WeakView,
)
from lightning_modules.views.colour import (
    grey,
    with_brightness,
    with_contrast,
    with_hue,
    with_saturation,
)
from lightning_modules.views.crops import boxes_of_random_area, crop_and_resize, crop_at
from lightning_modules.views.rand_augment import TORCHVISION_OPERATIONS, solarize, with_sharpness


def images(batch: int = 4, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    """Draw values that are multiples of 1 / 255."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, size, size), generator=generator) / 255


# colour


@pytest.mark.parametrize(
    ("ours", "theirs", "low"),
    [
        (with_brightness, reference.adjust_brightness, 0.0),
        (with_contrast, reference.adjust_contrast, 0.0),
        (with_saturation, reference.adjust_saturation, 0.0),
        (with_hue, reference.adjust_hue, -0.5),
    ],
)
def test_each_image_is_changed_by_its_own_factor_as_torchvision_would(ours, theirs, low: float) -> None:
    image = images(6)
    image[0] = 0.5
    factor = low + torch.linspace(0, 1, 6) * (1.0 if low < 0 else 2.0)
    expected = torch.stack([theirs(one, float(f)) for one, f in zip(image, factor, strict=True)])
    torch.testing.assert_close(ours(image, factor), expected, rtol=0, atol=2e-5)


def test_grey_images_keep_hue_and_saturation() -> None:
    image = images(3, channels=1)
    half = torch.full((3,), 0.5)
    assert torch.equal(with_hue(image, half), image)
    torch.testing.assert_close(with_saturation(image, half), image)
    assert torch.equal(grey(image), image)
    assert ColourJitter()(image).shape == image.shape


def test_jitter_changes_the_stated_share_of_images_and_takes_the_colours_of_another() -> None:
    torch.manual_seed(0)
    image = images(4000, size=2)
    changed = (ColourJitter(grey_probability=0.0)(image) != image).flatten(1).any(dim=1).float().mean()
    assert abs(changed - 0.8) < 4 * math.sqrt(0.16 / 4000)
    drawn = ColourJitter(probability=0.0)(image)
    uncoloured = (drawn == drawn[:, :1]).flatten(1).all(dim=1).float().mean()
    assert abs(uncoloured - 0.2) < 4 * math.sqrt(0.16 / 4000)


# crops


def test_a_crop_is_a_slice_and_a_mirrored_one_is_flipped() -> None:
    image = images(3)
    cut = crop_at(image, torch.tensor([0, 3, 8]), torch.tensor([1, 8, 5]), 8, torch.tensor([False, True, False]))
    assert torch.equal(cut[0], image[0, :, 0:8, 1:9])
    assert torch.equal(cut[1], image[1, :, 3:11, 8:16].flip(2))
    assert torch.equal(cut[2], image[2, :, 8:16, 5:13])


def test_weak_views_come_from_all_places_alike_and_are_mirrored_half_of_the_time() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(1.0, 26.0).view(1, 1, 5, 5).expand(20000, 1, 5, 5)
    view = RandomCrop(size=5, padding=1)(ramp)
    centre = view[:, 0, 2, 2]
    counts = torch.bincount(centre.long(), minlength=26)
    expected = 20000 / 9
    inner = {row * 5 + column + 1 for row in (1, 2, 3) for column in (1, 2, 3)}
    assert {int(value) for value in centre.unique()} == inner
    assert all(abs(counts[value] - expected) < 5 * math.sqrt(expected) for value in inner)
    mirrored = (view[:, 0, 2, 1] > view[:, 0, 2, 3]).float().mean()
    assert abs(mirrored - 0.5) < 4 * 0.5 / math.sqrt(20000)


def test_without_padding_and_flip_an_image_of_the_size_stays() -> None:
    image = images()
    assert torch.equal(RandomCrop(padding=0, flip=False)(image), image)
    assert RandomCrop(size=8)(image).shape == (4, 3, 8, 8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), height=st.integers(8, 60), width=st.integers(8, 60), least=st.floats(0.08, 1))
def test_boxes_lie_inside_with_allowed_area_and_ratio(seed: int, height: int, width: int, least: float) -> None:
    uniform = torch.rand(200, 22, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    top, left, high, wide = boxes_of_random_area(uniform, height, width, least).unbind(dim=1)
    assert (torch.stack([top, left]) >= 0).all()
    assert (top + high <= height + 1e-9).all()
    assert (left + wide <= width + 1e-9).all()
    assert ((wide / high >= 3 / 4 - 1e-9) & (wide / high <= 4 / 3 + 1e-9)).all()
    drawn = (uniform[:, 2:3] * (1 - least) + least) * height * width
    assert (high * wide <= height * width + 1e-9).all()
    first_fits = torch.isclose((high * wide)[:, None], drawn).any(dim=1)
    assert first_fits.float().mean() > (0.2 if height == width and least < 0.5 else -1)


def test_areas_of_boxes_of_a_square_are_those_of_torchvision_in_the_mean() -> None:
    torch.manual_seed(0)
    boxes = boxes_of_random_area(torch.rand(4000, 22), 64, 64, 0.08)
    theirs = v2.RandomResizedCrop(64)
    params = [theirs.make_params([torch.empty(3, 64, 64)]) for _ in range(4000)]
    areas = torch.tensor([p["height"] * p["width"] for p in params]).float()
    assert abs((boxes[:, 2] * boxes[:, 3]).mean() - areas.mean()) < 0.02 * 64**2


def test_resampling_the_whole_image_at_its_size_gives_it_back_and_half_of_it_its_half() -> None:
    image = images(2)
    whole = torch.tensor([[0.0, 0, 16, 16]]).expand(2, 4)
    torch.testing.assert_close(
        crop_and_resize(image, whole, 16, torch.zeros(2, dtype=torch.bool)), image, rtol=0, atol=1e-5
    )
    flipped = crop_and_resize(image, whole, 16, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(flipped, image.flip(3), rtol=0, atol=1e-5)
    box = torch.tensor([[4.0, 6, 8, 8], [0, 0, 8, 8]])
    part = crop_and_resize(image, box, 8, torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(part[0], image[0, :, 4:12, 6:14], rtol=0, atol=1e-5)
    torch.testing.assert_close(part[1], image[1, :, :8, :8], rtol=0, atol=1e-5)


# RandAugment


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [6, 17, 30])
@pytest.mark.parametrize("operation", TORCHVISION_OPERATIONS)
def test_an_operation_is_that_of_torchvision(operation: str, magnitude: int, sign: int) -> None:
    image = images(2, size=18)
    image[1, 0] = 0.4
    theirs = v2.RandAugment(1, magnitude)
    names = {name.lower(): name for name in theirs._AUGMENTATION_SPACE}
    name = names[operation.replace("_", "")]
    magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
    steps = magnitudes(31, 18, 18)
    value = 0.0 if steps is None else float(steps[magnitude] if steps.ndim else steps)
    if signed:
        value *= sign
    expected = theirs._apply_image_or_video_transform(
        image, name, value, interpolation=v2.InterpolationMode.NEAREST, fill={Tensor: None}
    )
    drawn = torch.full((2,), TORCHVISION_OPERATIONS.index(operation)), torch.full((2,), sign)
    found = RandAugment(1, magnitude).apply_operations(image, *drawn)
    assert ((found - expected).abs() > 2e-5).float().mean() < 0.01  # nearest pixels may differ in ties


def test_each_image_of_a_batch_has_an_operation_of_its_own() -> None:
    image = images(14)
    augment, sign = RandAugment(1, 20), torch.ones(14, dtype=torch.int64)
    together = augment.apply_operations(image, torch.arange(14), sign)
    for number in range(14):
        alone = augment.apply_operations(image[number : number + 1], torch.tensor([number]), sign[:1])
        torch.testing.assert_close(together[number], alone[0])
        assert torch.equal(together[number], image[number]) == (TORCHVISION_OPERATIONS[number] == "identity")


@pytest.mark.parametrize("threshold", [0.7, torch.tensor([0.0, 0.2, 1.0]).view(3, 1, 1, 1)])
def test_the_quick_ways_of_solarising_and_smoothing_give_what_the_plain_ones_do(threshold: float | Tensor) -> None:
    image = torch.randint(256, (3, 2, 9, 7), generator=torch.Generator().manual_seed(0)) / 255
    image[0, 0, 0, :3] = torch.tensor([0, 0.7, 1])
    before = image.clone().requires_grad_()
    given = before.detach().clone().requires_grad_()
    plain = torch.where(before >= threshold, 1 - before, before)
    found = solarize(given, threshold)
    assert torch.equal(found, plain)
    weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        *(torch.autograd.grad((weight * each).sum(), at)[0] for each, at in [(found, given), (plain, before)])
    )
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).expand(2, 1, 3, 3) / 13
    smooth = with_sharpness(given, torch.zeros(3))
    torch.testing.assert_close(smooth[:, :, 1:-1, 1:-1], torch.nn.functional.conv2d(image, kernel, groups=2))
    assert torch.equal(smooth[:, :, 0], image[:, :, 0])
    assert torch.equal(given, image)


# all views


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "view",
    [WeakView(), WeakView(8), StrongView(), StrongView(12), ContrastiveView(), ContrastiveView(8), AddedNoise(0.1)],
    ids=lambda view: f"{type(view).__name__}",
)
def test_views_are_images_that_differ_from_draw_to_draw_and_follow_the_seed(view: nn.Module, channels: int) -> None:
    image = images(8, channels)
    before = image.clone()
    torch.manual_seed(1)
    first = view(image)
    assert torch.equal(image, before)
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.dtype == image.dtype
    assert not torch.equal(view(image), first)
    torch.manual_seed(1)
    assert torch.equal(view(image), first)


@pytest.mark.parametrize("view", [WeakView(8), StrongView(8), ContrastiveView(8)], ids=lambda view: type(view).__name__)
def test_views_never_wait_for_the_device(view: nn.Module) -> None:
    """Tensors on the meta device have no values, so waiting for one fails."""
    assert view(torch.empty(5, 3, 12, 12, device="meta")).shape == (5, 3, 8, 8)


def test_three_augment_turns_a_third_grey_solarises_a_third_and_blurs_a_third() -> None:
    torch.manual_seed(0)
    image = images(300)
    seen = ThreeAugment(jitter=0.0)(image)
    grey_images, solarised = reference.rgb_to_grayscale(image, 3), reference.solarize(image, 128 / 255)
    of_kind = [(seen - kind).abs().amax((1, 2, 3)) < 1e-4 for kind in (grey_images, solarised)]
    rest = ~(of_kind[0] | of_kind[1])
    for chosen in (*of_kind, rest):
        assert 70 < int(chosen.sum()) < 130  # 100 are expected, with a standard deviation of 8
    rough, smooth = ((each[rest].diff(dim=3)).square().sum((1, 2, 3)) for each in (image, seen))
    assert bool((smooth <= rough + 1e-3).all())
    assert smooth.sum() < 0.3 * rough.sum()
    torch.testing.assert_close(seen[rest].mean((1, 2, 3)), image[rest].mean((1, 2, 3)), rtol=0.1, atol=0)
    jittered = ThreeAugment(jitter=0.3)(torch.full((200, 3, 8, 8), 0.25))
    assert jittered.mean((1, 2, 3)).std() > 0.02  # each has a separate brightness, in .7 ... 1.3
    assert 0.25 * 0.69 < jittered.min() < jittered.max() < 0.25 * 1.31
