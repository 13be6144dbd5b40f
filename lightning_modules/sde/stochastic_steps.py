"""Let stochastic schedulers in diffusers pipelines sample from the generators of the images."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def stepping_with(scheduler: Any, generator: torch.Generator | Sequence[torch.Generator] | None) -> Iterator[None]:
    """Pass the generators of the images to a scheduler's `step`, if the pipeline passes no generator.

    Some pipelines, such as those of Stable Diffusion 3, FLUX.1 and DiT, call `scheduler.step` without a generator. A
    stochastic step would then use the global random number generator. If a pipeline passes each image to `step` twice,
    for guidance, the generators are repeated.

    Args:
        scheduler: scheduler of diffusers.
        generator: one generator for all images, or one for each image; with None, `step` is not changed.
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
