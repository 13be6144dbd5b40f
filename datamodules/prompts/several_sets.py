"""Several datasets of images with captions in one run, each with its own size, repeats and loss weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.prompts.buckets import CoveringCrop
from datamodules.prompts.captioned_set import Captioned, CaptionedSet
from datamodules.prompts.cropped_images import CroppedImages


@dataclass(frozen=True)
class WeightedSet:
    """A dataset with its settings in a run on several datasets.

    Args:
        images: dataset of images with captions.
        repeats: number of times that each training image occurs in an epoch. Each time, it has its own crop, flip and
            order of tags.
        weight: factor of the loss of these images, such as 0.5 for regularisation images.
        prefix: text before each caption, such as `sks, `.
    """

    images: CaptionedSet
    repeats: int = 1
    weight: float = 1.0
    prefix: str = ""

    def __post_init__(self) -> None:
        at_least(1, repeats=self.repeats)
        at_least(0, weight=self.weight)


class SeveralSets(CaptionedSet):
    """Several datasets of images with captions, as one dataset.

    All images of a batch have one size; they may come from several datasets. If an image is in several datasets, for
    example in two sizes, it is held out of training in all of them or in none.

    Args:
        sets: the datasets. The largest `image_size` is the size of samples.
    """

    def __init__(self, sets: list[WeightedSet]) -> None:
        at_least(1, num_sets=len(sets))
        self.sets = sets
        self.image_shape = max((each.images.image_shape for each in sets), key=lambda shape: shape[1] * shape[2])

    @property
    def location(self) -> str:
        return ", ".join(each.images.location for each in self.sets)

    def members(self, key: str) -> dict[str, CaptionedSet]:
        own = [each.images.members(f"{key}.sets.{number}.images") for number, each in enumerate(self.sets)]
        return {name: images for each in own for name, images in each.items()}

    def fetch_missing(self) -> None:
        for each in self.sets:
            each.images.fetch_missing()

    def has_captions(self) -> bool:
        return self.training().captions is not None

    def training(self) -> Captioned:
        read = [each.images.training() for each in self.sets]
        sources: list[CroppedImages] = []
        captions: list[str] = []
        without = [number for number, each in enumerate(read) if each.captions is None]
        for number, (each, own) in enumerate(zip(self.sets, read, strict=True)):
            if (
                not isinstance(own.source, CroppedImages)
                or isinstance(own.source, JoinedImages)
                or own.lanes is not None
            ):
                raise ValueError(
                    f"sets.{number}.images must be CaptionedFolder, CaptionedShards or HuggingFaceCaptions, got "
                    f"{type(each.images).__name__}"
                )
            if number in without and (each.prefix or len(without) < len(read)):
                raise ValueError(
                    f"sets.{number}: {each.images.location} has no captions, but a prefix or another set has: add "
                    f"captions, or set sets.{number}.images.prompt"
                )
            sources.append(own.source)
            captions += [each.prefix + caption for caption in own.captions or ()]
        counts = [len(source.label) for source in sources]
        repeats, weight = (
            np.repeat([getattr(each, key) for each in self.sets], counts) for key in ("repeats", "weight")
        )
        joined = JoinedImages(sources, [each.images.location for each in self.sets])
        weights = None if (weight == 1).all() else torch.from_numpy(weight).float()
        numbers: dict[str, int] = {}  # in the order of the sets, so that they do not depend on where folders are
        same = np.array([numbers.setdefault(name, len(numbers)) for name in joined.names])
        return Captioned(joined, captions or None, torch.from_numpy(repeats), weights, same)


class JoinedImages(CroppedImages):
    """Several sources of cropped images, one after another, as one source.

    Args:
        parts: the sources.
        locations: where the images of each source are, which distinguishes files of the same name.
    """

    def __init__(self, parts: Sequence[CroppedImages], locations: Sequence[str]) -> None:
        self.parts = parts
        self.locations = locations
        self.label = torch.cat([each.label for each in parts])
        counts = [len(each.label) for each in parts]
        self.part = np.repeat(np.arange(len(parts)), counts)
        self.first = np.cumsum([0, *counts])
        self.size = np.concatenate([each.size for each in parts])
        self.bucket_sizes = sorted({size for each in parts for size in each.bucket_sizes}, reverse=True)
        self.bucketed = len(self.bucket_sizes) > 1 or any(each.bucketed for each in parts)
        of_size = {size: number for number, size in enumerate(self.bucket_sizes)}
        self.bucket = np.concatenate([np.array([of_size[s] for s in each.bucket_sizes])[each.bucket] for each in parts])
        self.num_uniform = CoveringCrop.num_uniform
        self.masked = any(each.masked for each in parts)
        self.conditioned = parts[0].conditioned
        for location, each in zip(locations, parts, strict=True):
            if each.conditioned != self.conditioned:
                some, none = (locations[0], location) if self.conditioned else (location, locations[0])
                raise ValueError(
                    f"condition_dir is set for {some}, but not for {none}: set it for all sets or for none"
                )

    @property
    def names(self) -> list[str]:
        own = [each.names or range(len(each.label)) for each in self.parts]
        return [f"{folder}/{name}" for folder, names in zip(self.locations, own, strict=True) for name in names]

    def _gather(self, row: Tensor, read: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        """Call `read(part, rows, *given)` for each source that occurs in `row`, and put the results in order."""
        part, found = self.part[row.numpy()], None
        for number in np.unique(part):
            chosen = torch.from_numpy(part == number)
            values = read(
                self.parts[number],
                row[chosen] - int(self.first[number]),
                *(None if each is None else each[chosen] for each in given),
            )
            found = values.new_empty(len(row), *values.shape[1:]) if found is None else found
            found[chosen] = values
        assert found is not None
        return found

    def fetch(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        self.bucket_of(row)
        return self._gather(row, lambda part, *given: part.fetch(*given), uniform)

    def fetch_masks(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        """Read masks as `CroppedImages.fetch_masks`; masks of sources without masks are white."""
        height, width = self.bucket_sizes[self.bucket_of(row)]

        def read(part: CroppedImages, own: Tensor, uniform: Tensor | None) -> Tensor:
            if part.masked:
                return part.fetch_masks(own, uniform)
            return torch.full((len(own), 1, height, width), 255, dtype=torch.uint8)

        return self._gather(row, read, uniform)

    def fetch_conditions(self, row: Tensor, uniform: Tensor | None) -> Tensor:
        return self._gather(row, lambda part, *given: part.fetch_conditions(*given), uniform)

    def size_conditions(self, row: Tensor, uniform: Tensor | None, mirrored: Tensor | None = None) -> Tensor:
        return self._gather(row, lambda part, *given: part.size_conditions(*given), uniform, mirrored)
