"""Random numbers of a step that are the same on any number of processes.

Each process draws the numbers of the whole batch, from generators that all have seeded alike, and keeps the rows of its
own samples, as `GlobalBatches` deals them. So the noise of a sample follows from (seed, stage, epoch, batch, place in
the batch), and a single process draws from torch's own generators, as any code does.

The batch size is that of all processes, so a process draws as much as a single one would, however many there are, and
holds the batch's numbers for a moment. A counter for each sample (`sample_uniform`) would draw a process's own rows
alone, at some twenty operations on integers for a number and with other numbers than torch's: on a CPU, 128 images of
CIFAR-10 take 1.1 ms whole, and half of them 8 ms by counters.

What a network draws inside, as dropout and stochastic depth do, comes from torch's own generators, which differ from
process to process: it has the same distribution on any number of processes, not the same values.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.distributed import collectives


class _Batch(NamedTuple):
    """The batch that several processes are at."""

    seed: int
    size: int
    generators: dict[torch.device, torch.Generator]

    def generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


_batch: _Batch | None = None


def begin_batch(seed: int, size: int | None) -> None:
    """Let several processes draw alike until `end_batch`; a single one draws from torch's generators anyway.

    Args:
        seed: the same on all processes.
        size: samples of the batch over all processes; None lets each process draw by itself.
    """
    global _batch
    _batch = _Batch(seed, size, {}) if size and collectives.world_size() > 1 else None


def end_batch() -> None:
    """Let each process draw from torch's own generators."""
    global _batch
    _batch = None


def rows_of_batch(share: int) -> int:
    """Count the rows of all processes where they draw alike and `share` is what this one has of the batch.

    Otherwise, as for some of the samples alone, it is `share` itself.
    """
    return share if _batch is None or share != len(_own(_batch.size)) else _batch.size


def sample_rows(
    draw: Callable[..., Tensor], shape: Sequence[int], device: torch.device | str, rows: int = 0, **options: Any
) -> Tensor:
    """Draw numbers for this process's samples out of those for the samples of all processes.

    Where the rows are not the batch's, once or several times over, each process draws by itself.

    Args:
        draw: `torch.rand`, `torch.randn` or `partial(torch.randint, high)`.
        shape: shape of this process's numbers.
        device: where they are drawn.
        rows: the dimension that counts samples; it may hold the batch several times, one after the other.
        options: more for `draw`, such as `dtype`.
    """
    shape = list(shape)
    share = 0 if _batch is None else len(_own(_batch.size))
    if _batch is None or not share or shape[rows] % share:
        return draw(shape, device=device, **options)
    times, after = shape[rows] // share, shape[rows + 1 :]
    generator = _batch.generator(torch.device(device))
    whole = draw([*shape[:rows], times * _batch.size, *after], generator=generator, device=device, **options)
    own = whole.unflatten(rows, (times, _batch.size)).movedim(rows + 1, 0)[
        collectives.rank() :: collectives.world_size()
    ]
    return own.movedim(0, rows + 1).reshape(shape).contiguous()


def sample_rows_like(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
    """Sample numbers of a tensor's shape, dtype and device; its first dimension counts samples, see `sample_rows`."""
    return sample_rows(draw, like.shape, like.device, dtype=like.dtype)


def shared_sample(draw: Callable[[torch.Generator | None], Tensor], device: torch.device) -> Tensor:
    """Draw numbers that belong to no sample, on a device, the same on all processes.

    Args:
        draw: draws from a generator, or from torch's own for None.
        device: of the generator.
    """
    return draw(None if _batch is None else _batch.generator(device))


@contextmanager
def shared_rng() -> Iterator[None]:
    """Draw the same on all processes from torch's generator of the host, within a `with`."""
    if _batch is None:
        yield
        return
    alike, own = _batch.generator(torch.device("cpu")), torch.get_rng_state()
    torch.set_rng_state(alike.get_state())
    try:
        yield
    finally:
        alike.set_state(torch.get_rng_state())
        torch.set_rng_state(own)


def _own(size: int) -> range:
    """Places of this process's samples in a batch."""
    return range(collectives.rank(), size, collectives.world_size())
