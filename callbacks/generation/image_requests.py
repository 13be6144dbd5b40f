"""List the images that the command `generate` must generate, each with a seed and a prompt or a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.arguments import at_least, within
from datamodules.prompts.prompt_sets import MOST_NUMBER, SUFFIXES, Prompt, PromptFile

MOST_IMAGES = 5_000_000
"""Largest number of images of one call, because all requests are kept in memory."""


@dataclass(frozen=True)
class ImageRequest:
    """An image to generate."""

    name: str
    """Name of the image's file, without suffix."""
    seed: int
    prompt: str | None = None
    prompt_index: int | None = None
    """Index of the prompt: for a prompt from a file, the file's `index`; for any other prompt, its position."""
    label: int | None = None


def read_prompts(given: Sequence[str], n: int) -> list[Prompt]:
    """Read prompts from a file, or convert given texts to prompts.

    Args:
        given: a prompt file in the format of `PromptFile`, or any number of texts. The seeds of successive texts differ
            by n.
        n: number of images for each prompt.
    """
    if len(given) == 1 and (given[0].endswith(SUFFIXES) or Path(given[0]).is_file()):
        return PromptFile(given[0]).prompts()
    return [Prompt(position, n * position, text) for position, text in enumerate(given)]


def image_requests(
    prompts: Sequence[Prompt] | None, classes: Sequence[int] | None, n: int, seed: int | None
) -> list[ImageRequest]:
    """List the requested images, grouped by prompt or class.

    Args:
        prompts: prompts; None if images have no prompts.
        classes: class indices; None if images have no classes.
        n: number of images for each prompt or class; if there are neither prompts nor classes, the total number of
            images.
        seed: seed of the first image; each further image has the next seed. If `seed` is None, the first image of each
            prompt has the prompt's own seed, and each further image of the prompt has the next seed. If there are no
            prompts either, the first image has seed 0.
    """
    at_least(1, n=n)
    at_least(0, seed=seed, **{f"classes[{place}]": label for place, label in enumerate(classes or ())})
    if prompts is not None and classes is not None:
        raise ValueError("give --prompts or --classes, not both")
    if (count := n * len(prompts or classes or [None])) > MOST_IMAGES:
        raise ValueError(f"--n {n}: {count} images are requested, but one call may generate at most {MOST_IMAGES}")

    def listed() -> Iterator[ImageRequest]:
        groups = prompts if prompts is not None else classes if classes is not None else [None]
        for group, each in enumerate(groups):
            for copy in range(n):
                position = group * n + copy
                prompt, label = (each, None) if isinstance(each, Prompt) else (None, each)
                number = (seed or 0) + position if seed is not None or prompt is None else prompt.seed + copy
                within(0, MOST_NUMBER, seed=number)
                name = f"{position:06d}"
                if prompt is None:
                    yield ImageRequest(name, number, label=label)
                else:
                    yield ImageRequest(name, number, prompt.caption, prompt.index)

    return list(listed())


def in_blocks(requests: Sequence[ImageRequest], size: int) -> list[list[ImageRequest]]:
    """Split requests into blocks; the images of a block are generated as one batch. The last block may be smaller."""
    at_least(1, batch_size=size)
    return [list(requests[start : start + size]) for start in range(0, len(requests), size)]
