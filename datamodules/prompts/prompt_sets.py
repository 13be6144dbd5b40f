"""Prompts from a file or from class names.

Each prompt has an index and a seed for its initial noise.

PromptFile("prompts.txt").prompts()[0]
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.arguments import at_least, within
from datamodules.classification.image_sets import ImageSet
from datamodules.files.text_files import read_text
from datamodules.loading.global_batches import Request
from datamodules.prompts.text_tables import entries

MOST_NUMBER = 2**63 - 1
"""Largest index or seed, because batches store them as 64-bit integers."""
SUFFIXES = (".txt", ".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Prompt:
    """A prompt with its index and seed."""

    index: int
    """Index of the prompt, unique in the set."""
    seed: int
    """Seed of the initial noise of the generated image."""
    caption: str


class PromptSet(ABC):
    """Interface of sets of prompts."""

    @abstractmethod
    def prompts(self) -> list[Prompt]:
        """Read the prompts.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if there are no prompts, or if an entry is invalid.
        """


class PromptFile(PromptSet):
    """Prompts from a file.

    The file can be a text file with one prompt per line, JSON lines, or CSV with a header.

    Entries in JSON lines and CSV may have an `index` and a `seed`. The default index is the position of the prompt,
    counted from 0. The default seed is derived from the index.

    Args:
        path: path of the file. It must end in .txt, .jsonl, .json (JSON lines) or .csv.
        column: key of the prompt in JSON lines, or column of the prompt in CSV.
    """

    def __init__(self, path: str, column: str = "caption") -> None:
        self.path = Path(path).expanduser()
        self.column = column
        if self.path.suffix not in SUFFIXES:
            raise ValueError(f"path must end in {', '.join(SUFFIXES)}, got {path}")

    def prompts(self) -> list[Prompt]:
        if not self.path.is_file():
            raise FileNotFoundError(f"no prompts at {self.path}: expected a file with one prompt per line")
        if self.path.suffix == ".txt":
            texts = map(str.strip, read_text(self.path).splitlines())
            found = [_prompt(position, {"caption": text}) for position, text in enumerate(filter(None, texts))]
        else:
            found = []
            for place, entry in entries(self.path):
                if not isinstance(entry.get(self.column), str):
                    raise ValueError(f"{place}: expected {self.column}, got {', '.join(map(str, entry)) or 'nothing'}")
                try:
                    found.append(_prompt(len(found), {**entry, "caption": entry[self.column]}))
                except (TypeError, ValueError, OverflowError) as error:
                    raise ValueError(
                        f"{place}: index and seed must be whole numbers, 0 ... {MOST_NUMBER}: {error}"
                    ) from error
        if not found:
            raise ValueError(f"{self.path} has no prompt")
        index, count = Counter(prompt.index for prompt in found).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{self.path} has {count} prompts with the index {index}")
        return found


def _whole(value: Any) -> int:
    """Convert text or a JSON value to an integer.

    Fractions and booleans are rejected.
    """
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(f"got {value}")
    return number


def _prompt(position: int, entry: dict[str, Any]) -> Prompt:
    index, seed = (None if entry.get(key) in (None, "") else _whole(entry[key]) for key in ("index", "seed"))
    at_least(0, index=index, seed=seed)
    within(0, MOST_NUMBER, index=index, seed=seed)
    index = position if index is None else index
    seed = int(np.random.SeedSequence([index]).generate_state(1)[0]) if seed is None else seed
    return Prompt(index, seed, entry["caption"])


class ClassPrompts(PromptSet):
    """Prompts that are the class names of a labelled dataset.

    The class names are used in turn, with a different seed for each prompt.

    Args:
        images: labelled dataset. If a class has no name, its index is used.
        num_prompts: number of prompts.
        first_seed: seed of the first prompt. The seed increases by one per prompt.
    """

    def __init__(self, images: ImageSet, num_prompts: int, first_seed: int = 0) -> None:
        at_least(1, num_prompts=num_prompts)
        at_least(0, first_seed=first_seed)
        self.images = images
        self.num_prompts = num_prompts
        self.first_seed = first_seed

    def prompts(self) -> list[Prompt]:
        names = self.images.class_names or list(map(str, range(self.images.num_classes)))
        return [Prompt(index, self.first_seed + index, names[index % len(names)]) for index in range(self.num_prompts)]


class PromptRows:
    """Dataset of prompts that is indexed by a `Request`. It returns batches `datamodules.batches.PromptBatch`."""

    in_memory = True

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        chosen = [self.prompts[row] for row in request.indices.tolist()]
        return {
            "caption": [prompt.caption for prompt in chosen],
            "seed": torch.tensor([prompt.seed for prompt in chosen]),
            "index": torch.tensor([prompt.index for prompt in chosen]),
            "global_batch_size": request.global_batch_size,
        }
