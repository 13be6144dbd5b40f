"""Make the stochastic schedulers of diffusers pipelines sample their noise with one random generator per image."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def stepping_with(scheduler: Any, generator: torch.Generator | Sequence[torch.Generator] | None) -> Iterator[None]:
    """Pass random generators to a scheduler's `step` method inside a `with` block, unless the pipeline passes its own.

    Some pipelines, such as those of Stable Diffusion 3, FLUX.1 and DiT, call `scheduler.step` without a generator. A
    stochastic step would then use the global random number generator. Other pipelines pass each image to `step` twice,
    for guidance. The list of generators is then repeated.

    Args:
        scheduler: a diffusers scheduler.
        generator: one generator for all images, or a sequence with one generator for each image; None leaves `step`
            unchanged.
    """
    step = getattr(scheduler, "step", None)
    if generator is None or step is None or "generator" not in inspect.signature(step).parameters:
        yield
        return

    @functools.wraps(step)  # pipelines inspect the arguments of `step`
    def stepped(model_output: Any, *args: Any, **options: Any) -> Any:
        if options.get("generator") is None:
            given: Any = generator
            if not isinstance(generator, torch.Generator):
                given = [*generator] * (len(model_output) // len(generator))
            options["generator"] = given
        return step(model_output, *args, **options)

    scheduler.step = stepped
    try:
        yield
    finally:
        del scheduler.step
