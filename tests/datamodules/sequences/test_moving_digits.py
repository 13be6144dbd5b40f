"""Moving digits: compared with a loop over frames, random numbers, rejections; and on MNIST, if available."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.classification.cifar import CIFAR10
from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImageSet
from datamodules.sequences.moving_digits import MovingDigits, bouncing_places, paste_digits


def walked(uniform: list[list[float]], room: int, speed: int) -> list[list[int]]:
    """Return the positions of one digit like the original generator, which treats rows before columns in a frame."""

    def drawn(number: float, low: int, high: int) -> int:
        return low + int(number * (high - low))

    first = uniform[0]
    y, x = drawn(first[0], 0, room), drawn(first[1], 0, room)
    dy, dx = drawn(first[2], -speed, speed + 1), drawn(first[3], -speed, speed + 1)
    places = [[y, x]]
    for numbers in uniform[1:]:
        y, x = y + dy, x + dx
        if y < 0 or y >= room:
            size = drawn(numbers[0], 1, speed + 1)
            dy, dx = (size if y < 0 else -size), drawn(numbers[1], -speed, speed + 1)
            y = 0 if y < 0 else room - 1
        if x < 0 or x >= room:
            size = drawn(numbers[2], 1, speed + 1)
            dx, dy = (size if x < 0 else -size), drawn(numbers[3], -speed, speed + 1)
            x = 0 if x < 0 else room - 1
        places.append([y, x])
    return places


def test_digits_bounce_as_one_at_a_time() -> None:
    uniform = torch.rand(50, 40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = bouncing_places(uniform, room=9, max_speed=4)
    assert places.tolist() == [walked(one, 9, 4) for one in uniform.tolist()]
    assert places.min() == 0
    assert places.max() == 8
    moves = places.diff(dim=1)
    assert set(moves.unique().tolist()) == set(range(-4, 5))


def test_digits_are_pasted_and_their_sum_is_clipped() -> None:
    digit = torch.randint(256, (2, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    place = torch.tensor([[[[0, 0], [1, 2]], [[1, 1], [2, 0]]], [[[2, 2], [0, 1]], [[2, 1], [2, 2]]]])
    frames = paste_digits(digit, place, 6)
    for video in range(2):
        for time in range(2):
            expected = torch.zeros(6, 6, dtype=torch.int64)
            for number in range(2):
                y, x = place[video, number, time].tolist()
                expected[y : y + 3, x : x + 3] += digit[video, number]
            assert torch.equal(frames[video, time, 0], expected.clamp(max=255).to(torch.uint8))


def moving(**changes: Any) -> MovingDigits:
    return MovingDigits(
        **{"images": Digits(), "image_size": 24, "digit_size": 16, "num_times": 6, "seed": 0, **changes}
    )


def test_a_video_follows_from_seed_split_visit_and_position_alone() -> None:
    training, test = moving().training(), moving().test()
    assert (len(training), len(test)) == (1300, 497)
    whole = training.fetch(torch.arange(8), 2)
    assert whole.shape == (8, 6, 1, 24, 24)
    assert torch.equal(training.fetch(torch.tensor([6, 3]), 2), whole[[6, 3]])
    others = [
        training.fetch(torch.arange(8), 3),
        test.fetch(torch.arange(8), 2),
        moving(seed=1).training().fetch(torch.arange(8), 2),
    ]
    assert all((other != whole).flatten(1).any(dim=1).all() for other in others)


def test_images_in_colour_are_rejected() -> None:
    with pytest.raises(ValueError, match="images must be grey, but those of CIFAR10 have 3 channels"):
        moving(images=CIFAR10())


def stands_still(images: ImageSet, size: int) -> int:
    """Return the largest difference between digits that cannot move and the nearest test image, enlarged by PIL."""
    law = MovingDigits(images, num_digits=1, image_size=size + 1, digit_size=size, num_times=2, seed=0)
    frames = law.test().fetch(torch.arange(20), 0)[:, 1, 0, :size, :size]
    source = images.test()
    stored = (source.fetch(torch.arange(len(source.label)), None)[:, 0].int() * 255 // source.data_range).byte().numpy()
    enlarged = [Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR) for one in stored]
    every = torch.from_numpy(np.stack(enlarged)).int()
    return max(int((frame.int() - every).abs().amax(dim=(1, 2)).min()) for frame in frames)


def test_digits_are_those_of_the_set_enlarged() -> None:
    assert stands_still(Digits(), 16) <= 1
