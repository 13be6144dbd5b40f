"""Operators applied in sequence."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.corruptions.clip_degradation import (
    Chain,
    InRandomOrder,
    RandomNoise,
    RandomResize,
    ResizeToEnd,
)
from datamodules.corruptions.clip_degradation.interface import ClipOperator


class Append(ClipOperator):
    """Appends its digit to the decimal digits of the pixel values."""

    def __init__(self, digit: int) -> None:
        self.digit = digit

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        return clip * 10 + self.digit


def test_groups_change_places_and_keep_their_own_order() -> None:
    shuffled = InRandomOrder([[Append(1)], [Append(2), Append(3)]])
    found = [int(shuffled.apply(torch.zeros(1), np.random.default_rng(seed), (1, 1))) for seed in range(200)]
    assert set(found) == {123, 231}
    assert 70 < found.count(123) < 130


def test_a_chain_gives_levels_of_eight_bits_that_follow_from_the_generator() -> None:
    clip = torch.rand(3, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    chain = Chain([RandomNoise(sigma=(60, 60)), ResizeToEnd()], scale=4)
    first, again, other = (chain(clip, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 1, 2, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal((first * 255).round() / 255, first)
    noisy = Chain([RandomNoise(poisson=0, sigma=(90, 90))], scale=1)(torch.rand(2, 1, 20, 20), np.random.default_rng(0))
    assert (noisy.min(), noisy.max()) == (0, 1)


def test_a_clip_is_degraded_by_one_thread_whatever_the_process_has() -> None:
    before, seen = torch.get_num_threads(), []

    class Counted(Append):
        def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().apply(clip, random, end)

    try:
        torch.set_num_threads(3)
        Chain([Counted(0)], scale=1)(torch.zeros(1, 1, 2, 2), np.random.default_rng(0))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_a_chain_must_end_at_its_size() -> None:
    end = InRandomOrder([[RandomNoise()], [ResizeToEnd()]])
    assert Chain([RandomResize(), end], scale=4).scale == 4
    assert Chain([RandomNoise()], scale=1).scale == 1
    for operators, scale in (([RandomNoise()], 2), ([ResizeToEnd(), RandomResize()], 2), ([RandomResize()], 1)):
        with pytest.raises(ValueError, match=f"no operator resizes frames to 1/{scale} of the clean size"):
            Chain(operators, scale)  # type: ignore[arg-type]
