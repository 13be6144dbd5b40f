"""Chains of operators that turn a clean clip into a degraded, smaller 8-bit clip."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.corruptions.clip_degradation.interface import ClipOperator


class InRandomOrder(ClipOperator):
    """Apply groups of operators; the order of the groups is random.

    Within a group, the order of the operators is fixed.

    Args:
        groups: the groups; each group is a list of operators.
    """

    def __init__(self, groups: Sequence[Sequence[ClipOperator]]) -> None:
        self.groups = [list(group) for group in groups]

    def sizes(self, size: tuple[int, int], end: tuple[int, int]) -> tuple[int, int] | None:
        after = [operator.sizes(size, end) for group in self.groups for operator in group]
        return None if None in after else end if end in after else size

    def apply(self, clip: Tensor, random: np.random.Generator, end: tuple[int, int]) -> Tensor:
        for position in random.permutation(len(self.groups)):
            for operator in self.groups[position]:
                clip = operator.apply(clip, random, end)
        return clip


class Chain:
    """Degrade clips with a sequence of operators, then quantise them to 8 bits.

    Args:
        operators: operators to apply, in order. One operator must resize the frames to the final size.
        scale: number of clean pixels per degraded pixel, along each axis.
    """

    def __init__(self, operators: Sequence[ClipOperator], scale: int = 4) -> None:
        at_least(1, scale=scale)
        self.operators = list(operators)
        self.scale = scale
        size: tuple[int, int] | None = (scale, scale)
        for operator in self.operators:
            size = operator.sizes(size or (0, 0), (1, 1))
        if size != (1, 1):
            raise ValueError(f"operators: no operator resizes frames to 1/{scale} of the clean size: add ResizeToEnd")

    def __call__(self, clip: Tensor, random: np.random.Generator) -> Tensor:
        """Degrade a clip.

        Args:
            clip: clean frames `[T, C, H, W]`, float32 in [0, 1]. Height and width are multiples of `scale`.
            random: random number generator from which all parameters of the degradation are drawn.

        Returns:
            The degraded clip, `[T, C, H / scale, W / scale]`, in [0, 1], quantised to levels k / 255.
        """
        end = (clip.shape[2] // self.scale, clip.shape[3] // self.scale)
        with one_thread():
            for operator in self.operators:
                clip = operator.apply(clip, random, end)
        return clip.mul(255).round().clamp(0, 255).div(255)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one CPU thread, as DataLoader workers do.

    With more threads, rounding errors may be different, which can change the quantised values.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
